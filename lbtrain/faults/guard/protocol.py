"""What a rank, its guard and the coordinator agree on: the configuration, the memory that a rank shares with
its guard, and how messages are written, bounded and authenticated.

A guard and the coordinator send each other a random nonce first. Every line after that carries an HMAC-SHA256
over the line and its number, under a key made of the job's secret, both nonces and the direction. So either
side knows that the other has the secret, and a line that is changed, replayed, reordered or sent back is no
message.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import re
import secrets
import selectors
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGHUP,
)
"""What schedulers, people, a limit of CPU time and a terminal that is closed send to ask a job to end."""

BOARD = struct.Struct("q120s")
"""What a rank writes where its guard reads it, in memory that both share: the last finished step, and what it
is doing.
"""

EXIT_CODE = 4
"""Of the ranks that end because another part of the job was lost (lbtrain.errors.RankLost)."""

MAX_LINE, MAX_TEXT = 16_384, 1_000
"""Bytes of a line and characters of a text at most; what is longer is cut when it is sent."""

RENDEZVOUS = "guards.json"
"""The file of a run directory in which the guards of all hosts find the coordinator."""

Message = dict[str, Any]

_FIELDS: dict[str, tuple[type, float, float]] = {
    "rank": (int, 0, 2**31),
    "age": (float, 0, 2**31),
    "step": (int, 0, 2**53),
    "left": (int, 0, 255),
    "code": (int, 1, 255),  # whatever the coordinator says, no rank ends with 0 for it
    "port": (int, 1, 65535),
    **dict.fromkeys(("own", "leader_left", "heartbeat", "welcome"), (bool, 0, 1)),
    **dict.fromkeys(("host", "doing", "ended", "why", "secret"), (str, 0, MAX_TEXT)),
}
"""Every field that a message may have: its type, and the least and greatest value (of a text: length)."""


@dataclass(frozen=True)
class Config:
    """Whom to guard. `link`, `board` and `listener` are file descriptors that the rank hands over; `job` is
    equal for all ranks of one launch; `since` is when the guard was wanted, by this host's monotonic clock.
    Only rank 0 has a listener (-1: none); `port` and `secret` are the coordinator's where they are known, and
    `made_run_dir` says that the run directory was not there before.
    """

    rank: int
    world_size: int
    pid: int
    address: str
    job: str
    timeout: float
    run_dir: str
    since: float
    link: int
    board: int
    listener: int = -1
    port: int = 0
    secret: str = ""
    made_run_dir: bool = False

    @property
    def beat(self) -> float:
        """Seconds between two heartbeats."""
        return min(1.0, self.timeout / 20)

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which somebody is lost: what is left of the timeout is for
        telling and ending all ranks.
        """
        return 0.6 * self.timeout

    @property
    def join(self) -> float:
        """Seconds for all ranks to come: hosts of one launch may start minutes apart."""
        return 5 * self.timeout


@dataclass(frozen=True)
class Rendezvous:
    """Where the coordinator of a job listens, and the secret that makes a message the job's own."""

    job: str
    port: int
    secret: str

    def write(self, run_dir: str) -> bool:
        """Into a file that only this user can read, in place of an old one or a link. Whether the directory
        had to be made. Raises OSError.
        """
        path = Path(run_dir) / RENDEZVOUS
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(dataclasses.asdict(self), file)
        new.replace(path)
        return made

    def remove(self, run_dir: str, *, made: bool) -> None:
        """When the job is over, unless another start has put its own there; with the directory that was
        `made` for it, if that is all it holds.
        """
        if Rendezvous.read(run_dir, self.job) == self:
            with contextlib.suppress(OSError):
                (Path(run_dir) / RENDEZVOUS).unlink()
                if made:
                    Path(run_dir).rmdir()

    @classmethod
    def read(cls, run_dir: str, job: str) -> "Rendezvous | None":
        """None where rank 0 has not written one for this job yet, or where it could be another user's."""
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            descriptor = os.open(
                Path(run_dir) / RENDEZVOUS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with os.fdopen(descriptor, "rb") as file:
                if not _is_private(os.fstat(descriptor)):
                    return None
                found = cls(**json.loads(file.read(MAX_LINE)))
                return found if found.job == job and is_message(vars(found), also="job") else None
        return None


def _is_private(file: os.stat_result) -> bool:
    return stat.S_ISREG(file.st_mode) and file.st_uid == os.geteuid() and not file.st_mode & 0o077


def is_message(message: object, *, also: str = "") -> bool:
    """Whether this is an object of known fields, each of its type and within its bounds."""
    return isinstance(message, dict) and all(
        name == also or (name in _FIELDS and _within(value, *_FIELDS[name]))
        for name, value in message.items()
    )


def _within(value: object, kind: type, least: float, most: float) -> bool:
    return type(value) is kind and least <= (len(value) if isinstance(value, str) else value) <= most  # type: ignore[operator]


def heartbeats(interval: float, work: Callable[[float], None]) -> Iterator[float]:
    """Does `work` for one interval after another and yields the seconds that each counts for, however long it
    was really away.
    """
    while True:
        started = time.monotonic()
        work(interval)
        yield min(time.monotonic() - started, 2 * interval)


class Connection:
    """Messages, one JSON object a line, over a socket that never blocks. As it is, between a rank and its
    guard: nobody else has that socket.
    """

    def __init__(self, connected: socket.socket):
        self.socket = connected
        self.socket.setblocking(False)
        self.received = self.unsent = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in message.items()}
        self._write(self._sign(json.dumps(cut).encode()))

    def messages(self) -> list[Message] | None:
        """What has come; None once the other end is closed, or has sent what is no message."""
        try:
            lines = self._lines()
            messages = None if lines is None else [json.loads(self._verify(line)) for line in lines]
        except (ValueError, RecursionError):
            return None
        return messages if messages is not None and all(map(is_message, messages)) else None

    def _write(self, line: bytes) -> None:
        self.unsent += line + b"\n"
        with contextlib.suppress(OSError):  # who does not take it is found by its silence
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def _lines(self) -> list[bytes] | None:
        """At most 64 KiB at a time: nobody can keep the others from being heard."""
        try:
            part = self.socket.recv(65_536)
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        *lines, self.received = (self.received + part).split(b"\n")
        too_long = max(map(len, [*lines, self.received])) > MAX_LINE
        return None if too_long or not part else lines

    def _sign(self, line: bytes) -> bytes:
        return line

    def _verify(self, line: bytes) -> bytes:
        return line


class AuthenticatedConnection(Connection):
    """Between a guard and the coordinator: `side` is which of the two this one is."""

    def __init__(self, connected: socket.socket, secret: str, side: str):
        super().__init__(connected)
        self._secret, self._side = secret.encode(), side
        self._nonce = secrets.token_hex(16)
        self._keys: dict[str, bytes] = {}
        self._counts = {"guard": 0, "coordinator": 0}
        self._write(self._nonce.encode())

    @property
    def greeted(self) -> bool:
        """Whether the other side's nonce has come. Nothing can be sent before."""
        return bool(self._keys)

    def _lines(self) -> list[bytes] | None:
        lines = super()._lines()
        if lines and not self.greeted:
            self._derive_keys(lines.pop(0).decode())
        return lines

    def _derive_keys(self, nonce: str) -> None:
        if not re.fullmatch("[0-9a-f]{32}", nonce):
            raise ValueError("not a nonce")
        ours, theirs = self._nonce, nonce
        both = f"{ours} {theirs}" if self._side == "guard" else f"{theirs} {ours}"
        self._keys = {side: _hmac(self._secret, f"{side} {both}".encode()) for side in self._counts}

    def _sign(self, line: bytes) -> bytes:
        return self._code(self._side, line) + b" " + line

    def _verify(self, line: bytes) -> bytes:
        code, _, content = line.partition(b" ")
        if not hmac.compare_digest(code, self._code(self._other, content)):
            raise ValueError("not a message of this job")
        return content

    @property
    def _other(self) -> str:
        return "coordinator" if self._side == "guard" else "guard"

    def _code(self, side: str, line: bytes) -> bytes:
        self._counts[side] += 1
        return _hmac(self._keys[side], self._counts[side].to_bytes(8, "big") + line).hex().encode()


def _hmac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, hashlib.sha256)


def readable(connections: list[Connection], seconds: float) -> list[Connection]:
    """Those that have something to read within so many seconds."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        return [key.data for key, _ in selector.select(seconds)]


def addresses(name: str, port: int) -> list[tuple[Any, ...]]:
    """(family, address) of every way to reach a host by TCP. Raises OSError where it has none."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # two dots in a row, or a part of more than 63 letters
        raise OSError(f"no name of a host: {error}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def report(text: str, run_dir: str, *, code: int = EXIT_CODE, others: str = "") -> None:
    """Tells the screen and the run directory's faults.log why the job ends with this exit code, and where the
    `others` stand, as far as either can still be written to.
    """
    text = text.encode(errors="backslashreplace").decode()  # it may have a file's name, which is no UTF-8
    stand = f"the others: {others}\n" if others else ""
    remedy = "; the same command goes on from the newest checkpoint" if code == EXIT_CODE else ""
    with contextlib.suppress(OSError):  # nobody may be there to read it any more
        print(f"error: {text}. All ranks end{remedy}\n{stand}", end="", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(Path(run_dir) / "faults.log", flags, 0o666), "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n{stand}")
