"""Strangers at the socket of a real run: whatever they send, it ends as if nothing had come."""

import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbtrain.faults.guard.protocol import RENDEZVOUS, AuthenticatedConnection, readable
from tests.faults.jobs import PATIENCE, Break, Job, left_behind, wait_until

SECONDS = 20
NONCE = b"0123456789abcdef" * 2 + b"\n"
FIELDS = {
    "rank": (0, 2, -1, 2**40, "1", None, True, 0.5),
    "age": (0.0, 1e9, -1.0, float("nan"), "x", 1),
    "step": (0, 7, -1, 2**60, "x"),
    "left": (0, 4, 256, "0"),
    "code": (0, 1, 4, 75, "0"),
    "ended": ("finished", "", 0, "x" * 2000),
    "why": ("stopped", "", 0),
    "own": (True, False, 0),
    "welcome": (True, 1),
    "leader_left": (True,),
    "port": (1, 0),
    "secret": ("", "s"),
    "token": ("127.0.0.1:29500:",),
}
"""Every field with values that are right, of another type, or out of bounds. No message claims rank 1, the
only one that is free: who knows the secret and claims it is a guard of this job.
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Job]:
    """A job whose rank 1 has yet to come, so that its coordinator still listens."""
    job = Job.start(tmp_path / "job", broken=Break("launch", (1,), waits=True))
    assert wait_until((job.folder / "run" / RENDEZVOUS).exists, SECONDS), job.screen
    yield job
    job.end()


def some_message(draw: random.Random) -> bytes:
    names = draw.sample(sorted(FIELDS), draw.randint(0, 5))
    return json.dumps({name: draw.choice(FIELDS[name]) for name in names}).encode()


def some_bytes(draw: random.Random) -> bytes:
    """What a stranger sends who does not know the secret."""
    message = some_message(draw)
    makers: list[Callable[[], bytes]] = [
        lambda: draw.randbytes(draw.randint(0, 3000)),
        lambda: message + b"\n",
        lambda: NONCE + message + b"\n",
        lambda: NONCE + draw.randbytes(32).hex().encode() + b" " + message + b"\n",
        lambda: NONCE * draw.randint(1, 40),
        lambda: NONCE[: draw.randint(0, 32)],
        lambda: b"[" * draw.randint(1, 40_000) + b"\n",
    ]
    return draw.choice(makers)()


def send_without_secret(port: int, draw: random.Random) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as stranger:
        try:
            for _ in range(draw.randint(1, 3)):
                stranger.sendall(some_bytes(draw))
        except ConnectionError:
            pass  # it has hung up


def send_with_secret(port: int, secret: str, draw: random.Random) -> None:
    connection = AuthenticatedConnection(
        socket.create_connection(("127.0.0.1", port), SECONDS), secret, "guard"
    )
    with connection.socket:
        assert readable([connection], SECONDS)
        connection.messages()
        connection._write(connection._sign(some_message(draw)))
        readable([connection], SECONDS)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_whatever_is_sent_to_the_coordinator_the_run_ends_as_if_nothing_had_come(waiting, undisturbed, count):
    draw = random.Random(count)
    found = json.loads((waiting.folder / "run" / RENDEZVOUS).read_text())
    for _ in range(count // 2):
        send_without_secret(found["port"], draw)
        send_with_secret(found["port"], found["secret"], draw)
    slow = [socket.create_connection(("127.0.0.1", found["port"]), SECONDS) for _ in range(100)]
    (waiting.folder / "go").touch()
    assert waiting.codes() == [0, 0], waiting.screen
    assert "error:" not in waiting.screen and "Traceback" not in waiting.screen
    assert waiting.losses() == undisturbed.losses()
    assert wait_until(lambda: not left_behind(waiting.folder), PATIENCE)
    assert not (waiting.folder / "run" / RENDEZVOUS).exists()
    for stranger in slow:
        stranger.close()


def test_the_secret_is_on_no_command_line(waiting):
    found = json.loads((waiting.folder / "run" / RENDEZVOUS).read_text())
    guards = left_behind(waiting.folder)
    assert guards, "that of rank 0, which was given the secret"
    for pid in (*guards, *(rank.pid for rank in waiting.ranks)):
        assert found["secret"].encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
