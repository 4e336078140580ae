"""The coordinator of the guards: who is taken for a guard of the job, what it finds to be the cause of an
end, and who is told of it, also where a guard comes after it.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbtrain.errors import LaunchError
from lbtrain.faults import watchdog
from lbtrain.faults.guard import coordinator
from lbtrain.faults.guard.coordinator import Coordinator, listening_socket
from lbtrain.faults.guard.guard import Guard
from lbtrain.faults.guard.protocol import (
    BOARD,
    MAX_LINE,
    MAX_TEXT,
    RENDEZVOUS,
    AuthenticatedConnection,
    Config,
    Connection,
    Rendezvous,
    is_message,
    readable,
    report,
)

SECONDS = 20
"""For anything that is awaited: much more than it takes."""

SECRET = "the secret of this job"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Coordinator]:
    listener = listening_socket("127.0.0.1")
    config = Config(
        0, 2, os.getpid(), "127.0.0.1", "job", 6.0, str(tmp_path), time.monotonic(), -1, -1,
        port=listener.getsockname()[1], secret=SECRET,
    )  # fmt: skip
    hub = Coordinator(config, listener)
    hub.start()
    yield hub
    hub.join(SECONDS)
    assert not hub.is_alive()


def connected(hub: Coordinator, secret: str = SECRET, side: str = "guard") -> AuthenticatedConnection:
    """A connection that both sides have greeted on."""
    raw = socket.create_connection(("127.0.0.1", hub.config.port), SECONDS)
    connection = AuthenticatedConnection(raw, secret, side)
    assert readable([connection], SECONDS)
    assert connection.messages() == [] and connection.greeted
    return connection


def joined(hub: Coordinator, rank: int, age: float = 1.0, **message: object) -> AuthenticatedConnection:
    """A guard that the coordinator knows, and what it says next."""
    guard = connected(hub)
    guard.send(rank=rank, host="node01", age=age, step=0, doing="start-up")
    assert answers(guard, 1) == [{"welcome": True}]
    guard.send(step=0, **message)
    return guard


def answers(connection: Connection, count: int) -> list | None:
    """The first `count` messages, in however many pieces they come; None for a connection closed without one.
    Heartbeats are answered.
    """
    heard: list = []
    while len(heard) < count:
        assert readable([connection], SECONDS), f"nothing for {SECONDS} s after {heard}"
        messages = connection.messages()
        if messages is None:
            return heard or None
        heard += [message for message in messages if "step" not in message]
        if len(heard) < count and messages:
            connection.send(step=0, doing="start-up")
    return heard


def leave_both(*guards: AuthenticatedConnection) -> None:
    for guard in guards:
        guard.send(left=0)


def is_closed(raw: socket.socket) -> bool:
    raw.settimeout(SECONDS)
    try:
        while raw.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_a_guard_that_starts_late_hears_the_outcome_and_the_next_start_of_the_job_does_not(hub, capsys):
    joined(hub, 0, ended="its process is gone")
    deadline = time.monotonic() + SECONDS
    while not hub.causes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert hub.causes
    early, late = connected(hub), connected(hub)
    early.send(rank=1, host="node01", age=0.0, step=0, doing="start-up")
    assert answers(early, 1) is None
    late.send(rank=1, host="node01", age=1000.0, step=0, doing="start-up")
    assert answers(late, 2) == [{"welcome": True}, {"code": 4, "own": False}]
    hub.join(SECONDS)
    assert "rank 0 on node01 lost after step 0 (start-up): its process is gone" in capsys.readouterr().err


def test_a_rank_that_left_by_itself_is_the_cause_whoever_was_heard_first(hub, capsys):
    """Its peer's exchange breaks when it goes, and the peer's guard may be the quicker one to say so."""
    peer = joined(hub, 0, why="RuntimeError: Connection closed by peer")
    gone = joined(hub, 1, left=75, why="stopped by a signal")
    for guard, own in ((peer, False), (gone, True)):
        assert answers(guard, 1) == [{"code": 75, "own": own}]
        guard.socket.close()
    hub.join(SECONDS)
    assert "rank 1 on node01 lost after step 0 (start-up): stopped by a signal" in capsys.readouterr().err


def test_an_outcome_is_never_the_code_of_success(hub):
    """A rank that left with 0 and gives a reason all the same does not end the others with 0."""
    peer, gone = joined(hub, 0), joined(hub, 1, left=0, why="nonsense")
    for guard in (peer, gone):
        assert answers(guard, 1) is not None
    assert hub.code == 4
    for guard in (peer, gone):
        guard.socket.close()


def frame(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


NONCE = b"0" * 32 + b"\n"
STRANGE = {
    "nothing": b"",
    "json of old": frame(token="127.0.0.1:29500:", rank=1, ended="finished"),
    "a nonce and json": NONCE + frame(rank=1, ended="finished"),
    "a nonce and a code of zeros": NONCE + b"0" * 64 + b" " + frame(rank=1, age=1.0),
    "no nonce": b"x" * 32 + b"\n",
    "bytes that are no text": b"\xff\x00\xfe\n",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\n",
    "a line without end": b"a" * (MAX_LINE + 2),
    "deep nesting": NONCE + b"[" * 9000 + b"\n",
}


def test_strangers_are_hung_up_on_and_change_nothing(hub):
    first = joined(hub, 0)
    for data in STRANGE.values():
        raw = socket.create_connection(("127.0.0.1", hub.config.port), SECONDS)
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        assert is_closed(raw)
    assert (hub.lost, hub.failed, hub.left, set(hub.ranks)) == ({}, {}, {}, {0})
    leave_both(first, joined(hub, 1))


@pytest.mark.parametrize(
    ("secret", "side", "message"),
    [
        ("another secret", "guard", {"rank": 1, "age": 1.0}),
        (SECRET, "coordinator", {"rank": 1, "age": 1.0}),  # what the coordinator itself has said, sent back
        (SECRET, "guard", {"rank": 0, "age": 1.0}),  # alive
        (SECRET, "guard", {"rank": 2, "age": 1.0}),
        (SECRET, "guard", {"rank": -1, "age": 1.0}),
        (SECRET, "guard", {"rank": True, "age": 1.0}),
        (SECRET, "guard", {"rank": "1", "age": 1.0}),
        (SECRET, "guard", {"rank": 1, "age": float("nan")}),
        (SECRET, "guard", {"rank": 1, "code": 0}),
        (SECRET, "guard", {"rank": 1, "unknown": 1}),
        (SECRET, "guard", {}),
    ],
)
def test_who_knows_no_secret_or_names_no_free_rank_is_not_taken(hub, secret, side, message):
    first = joined(hub, 0)
    stranger = connected(hub, secret, side)
    stranger.send(**message)
    assert answers(stranger, 1) is None
    assert (hub.lost, set(hub.ranks)) == ({}, {0})
    leave_both(first, joined(hub, 1))


def test_a_line_that_is_replayed_or_changed_ends_its_connection_and_not_the_others(hub):
    first, replaying = joined(hub, 0), connected(hub)
    line = replaying._sign(json.dumps({"rank": 1, "age": 1.0}).encode()) + b"\n"
    elsewhere = connected(hub)
    elsewhere.socket.sendall(line)  # it carries the nonces of another connection
    assert answers(elsewhere, 1) is None
    replaying.socket.sendall(line + line)
    assert answers(replaying, 2) in (None, [{"welcome": True}])
    assert hub.lost == {}
    leave_both(first, joined(hub, 1))


def test_many_and_slow_connections_are_bounded(hub, monkeypatch):
    monkeypatch.setattr(coordinator, "HANDSHAKE", 0.5)
    monkeypatch.setattr(coordinator, "STRANGERS", 6)
    first = joined(hub, 0)
    slow = [socket.create_connection(("127.0.0.1", hub.config.port), SECONDS) for _ in range(30)]
    second = joined(hub, 1)
    assert len(hub.strangers) <= 9
    for raw in slow:
        assert is_closed(raw)
    leave_both(first, second)


def test_once_all_ranks_have_joined_nobody_can_connect_any_more(hub):
    guards = joined(hub, 0), joined(hub, 1)
    end = time.monotonic() + SECONDS
    while hub.listener.fileno() >= 0 and time.monotonic() < end:
        time.sleep(0.02)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", hub.config.port), SECONDS)
    leave_both(*guards)


def test_a_guard_that_gave_up_waiting_for_its_welcome_may_come_again(hub):
    first, hasty = joined(hub, 0), connected(hub)
    hasty.send(rank=1, host="node01", age=1.0)
    assert answers(hasty, 1) == [{"welcome": True}]
    hasty.socket.close()
    end = time.monotonic() + SECONDS
    while 1 in hub.ranks and time.monotonic() < end:
        time.sleep(0.02)
    assert hub.lost == {}
    leave_both(first, joined(hub, 1))


def test_a_message_is_cut_to_its_bounds():
    here, there = (Connection(each) for each in socket.socketpair())
    here.send(why="\U0001f600" * 5000, ended="")
    assert readable([there], SECONDS)
    assert there.messages() == [{"why": "\U0001f600" * MAX_TEXT, "ended": ""}]


@pytest.mark.parametrize(
    "value", [None, 1, [], "text", {"rank": 1.0}, {"own": 1}, {"step": 2**60}, {"code": 0}]
)
def test_what_is_no_message(value):
    assert not is_message(value)


RENDEZVOUS_OF = Rendezvous("job", 12345, SECRET)


def test_the_secret_is_for_this_user_alone_and_replaces_what_lies_there(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / RENDEZVOUS).symlink_to(target)
    assert not RENDEZVOUS_OF.write(str(run_dir))
    assert target.read_text() == "untouched"
    assert (run_dir / RENDEZVOUS).lstat().st_mode & 0o7777 == 0o600
    assert Rendezvous.read(str(run_dir), "job") == RENDEZVOUS_OF
    assert Rendezvous.read(str(run_dir), "another job") is None
    Rendezvous("job", 1, "of another start").remove(str(run_dir), made=True)
    assert (run_dir / RENDEZVOUS).exists()
    RENDEZVOUS_OF.remove(str(run_dir), made=False)
    assert run_dir.exists() and not list(run_dir.iterdir())


def test_a_directory_that_was_made_for_it_goes_with_it_if_it_holds_nothing_else(tmp_path):
    run_dir = tmp_path / "runs" / "run"
    for others in (0, 1):
        assert RENDEZVOUS_OF.write(str(run_dir))
        for number in range(others):
            (run_dir / str(number)).touch()
        RENDEZVOUS_OF.remove(str(run_dir), made=True)
        assert run_dir.exists() == bool(others)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "[" * 5000, '{"job": "job"}', '{"job": "job", "port": 0, "secret": ""}'),
        *('{"job": "job", "port": "1", "secret": ""}', '{"job": "job", "port": 1, "secret": 1, "more": 1}'),
    ],
)
def test_a_damaged_rendezvous_is_none(tmp_path, text):
    path = tmp_path / RENDEZVOUS
    path.write_text(text)
    path.chmod(0o600)
    assert Rendezvous.read(str(tmp_path), "job") is None


def test_a_rendezvous_that_others_may_have_written_is_none(tmp_path):
    RENDEZVOUS_OF.write(str(tmp_path))
    path = tmp_path / RENDEZVOUS
    path.chmod(0o640)
    assert Rendezvous.read(str(tmp_path), "job") is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert Rendezvous.read(str(tmp_path), "job") is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert Rendezvous.read(str(tmp_path), "job") is None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_coordinator_listens_where_its_peers_are(name):
    with listening_socket(name) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_a_host_name_that_is_a_loopback_address_here_is_listened_to_on_all(monkeypatch):
    """As on Debian, whose /etc/hosts gives a host's own name 127.0.1.1: its peers would not reach it."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with listening_socket("node01") as listener:
        assert listener.getsockname()[0] in ("0.0.0.0", "::")


def impostor(replies: Callable[[bytes], bytes]) -> int:
    """A stranger that listens where the coordinator is expected; returns its port."""
    listener = listening_socket("127.0.0.1")

    def serve() -> None:
        raw, _ = listener.accept()
        with raw, contextlib.suppress(OSError):
            raw.sendall(b"f" * 32 + b"\n")
            while data := raw.recv(65536):
                raw.sendall(replies(data))

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


@pytest.mark.parametrize(
    "replies",
    [
        lambda data: data,  # sent back
        lambda data: b"",
        lambda data: frame(welcome=True) + frame(code=0, own=False),
        lambda data: b"0" * 64 + b" " + frame(welcome=True),
        lambda data: b"\n" * 9,
    ],
)
def test_a_guard_believes_no_stranger_that_holds_the_port(tmp_path, replies):
    link, theirs = socket.socketpair()
    with (tmp_path / "board").open("w+b") as board:
        board.write(bytes(BOARD.size))
        board.flush()
        config = Config(
            1, 2, os.getppid(), "127.0.0.1", "job", 6.0, str(tmp_path), time.monotonic(), theirs.detach(),
            board.fileno(),
        )  # fmt: skip
        guard = Guard(config)
        assert not guard._join(socket.AF_INET, ("127.0.0.1", impostor(replies)), SECRET)
    assert guard.coordinator is None
    link.close()


def test_no_port_for_the_coordinator_is_said_at_the_start(monkeypatch):
    def none_left(*args: Any, **kwargs: Any) -> socket.socket:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket, "create_server", none_left)
    with pytest.raises(LaunchError, match=r"MASTER_ADDR=127.0.0.1: no port .*ip_local_port_range"):
        watchdog._listen("127.0.0.1")
    for name in ("no.such.host.invalid", "10.0.0..1", "a" * 64):
        with pytest.raises(LaunchError, match=f"MASTER_ADDR={name}: "):
            watchdog._listen(name)


def test_the_reason_of_an_end_may_hold_a_name_that_is_no_utf8(tmp_path, capsys):
    report("caf\udce9.jpg cannot be read", str(tmp_path))
    for text in ((tmp_path / "faults.log").read_text(), capsys.readouterr().err):
        assert r"caf\udce9.jpg cannot be read" in text
