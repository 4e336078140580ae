"""A rank's side of its guard (lbtrain.faults.guard): starts it, tells it the step, and exits when it says
that a part of the job is lost.

Costs a training step one write of 128 bytes to memory. A thread waits for the guard's word in the system, not
in Python; it acts also while the main thread waits in an exchange. Only dead, stopped and unreachable
processes are faults: long steps, evaluations, checkpoints and compilations are not, since the guard beats for
the rank. A main thread that hangs by itself is found by the time limit of the process group's exchanges.
"""

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lbtrain.errors import LaunchError, Preempted, RankLost, UserError
from lbtrain.faults.collectives import last_collective
from lbtrain.faults.guard import protocol
from lbtrain.faults.guard.coordinator import listening_socket
from lbtrain.faults.guard.protocol import BOARD, SIGNALS, Config, Connection, Rendezvous
from lbtrain.launch.variables import rank_among_others
from lbtrain.output import say

SECONDS_FOR_AN_OUTCOME = 2.0

SECONDS_TO_BE_REPORTED = 10.0
"""Of a rank's own mistake: within these the coordinator is found, hears from all ranks, and reports."""

_board: bytearray | mmap = bytearray(BOARD.size)  # nobody's, until a watchdog shares one with its guard
_watchdog: "Watchdog | None" = None


def at(step: int, doing: str) -> None:
    """Notes the last finished step and what goes on now; what others are told if this rank is lost."""
    BOARD.pack_into(_board, 0, step, doing.encode())


def catch_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Lets `handler` answer SIGNALS; returns what answered them before. Under nohup SIGHUP stays ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if not (ignored and number == signal.SIGHUP)
    }


def let_go_of_terminal(number: int) -> None:
    """After SIGHUP the terminal is gone: what is printed to it would raise, during the last save."""
    null = os.open(os.devnull, os.O_WRONLY) if number == signal.SIGHUP else -1
    for stream in (1, 2) if null >= 0 else ():
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(null, stream)


def share_rendezvous() -> None:
    """Tells every guard where rank 0's coordinator is, for hosts that do not share the run directory.
    Collective; nothing where no guard runs.
    """
    if _watchdog and _watchdog.link:
        from torch.distributed import broadcast_object_list

        found = [(_watchdog.config.port, _watchdog.config.secret)]
        broadcast_object_list(found)
        _watchdog.link.send(port=found[0][0], secret=found[0][1])


class Watchdog:
    """Watches, inside its `with` block, over the ranks that a launcher started together. A rank alone needs
    and gets none.

    A signal while nothing trains yet, or any more (lbtrain.faults.stopping answers it in between), ends the
    process with the code of Preempted. An error that leaves the block is reported; where it only followed
    from the loss of another rank, the process exits in here.
    """

    def __init__(self, *, fault_timeout: float, run_dir: str):
        self._fault_timeout, self._run_dir = fault_timeout, run_dir
        self._own_error, self._reported = threading.Event(), threading.Event()
        self.link: Connection | None = None
        self._heard = False

    def __enter__(self) -> "Watchdog":
        global _watchdog
        self._previous = catch_signals(self._on_signal)
        if (rank := rank_among_others(os.environ)) is not None:
            world_size, address, port = (
                os.environ[name] for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            )
            job = f"{address}:{port}:{os.environ.get('TORCHELASTIC_RUN_ID', '')}"
            self._start_guard(rank, int(world_size), address, job)
            _watchdog = self
        return self

    def _start_guard(self, rank: int, world_size: int, address: str, job: str) -> None:
        global _board
        link, theirs = socket.socketpair()
        listener = _listen(address) if rank == 0 else None
        with tempfile.TemporaryFile() as shared:
            shared.write(bytes(BOARD.size))
            shared.flush()
            _board = mmap(shared.fileno(), BOARD.size)
            at(0, "start-up")
            self.config = Config(
                rank, world_size, os.getpid(), address, job, self._fault_timeout, self._run_dir,
                time.monotonic(), theirs.fileno(), shared.fileno(),
            )  # fmt: skip
            if listener:
                self.config = dataclasses.replace(
                    self.config,
                    listener=listener.fileno(),
                    port=listener.getsockname()[1],
                    secret=secrets.token_hex(32),
                )
                self.config = dataclasses.replace(self.config, made_run_dir=self._write_rendezvous())
            fds = [fd for fd in (theirs.fileno(), shared.fileno(), self.config.listener) if fd >= 0]
            self._process = _start(self.config, fds)
        theirs.close()
        if listener:
            listener.close()
        self.link = Connection(link)
        threading.Thread(target=self._watch_guard, args=[self.link], daemon=True).start()

    def _write_rendezvous(self) -> bool:
        # A run directory that cannot be written to is rejected later, with the reason; the guards find each
        # other in any case (share_rendezvous).
        with contextlib.suppress(OSError):
            return Rendezvous(self.config.job, self.config.port, self.config.secret).write(self._run_dir)
        return False

    def _watch_guard(self, link: Connection) -> None:
        silent = 0.0
        for elapsed in protocol.heartbeats(self.config.beat, lambda seconds: self._receive(link, seconds)):
            silent = 0.0 if self._heard else silent + elapsed
            self._heard = False
            if link.fileno() < 0:
                return
            if silent > self.config.silence and not self._own_error.is_set():
                self._without_guard(f"not heard of for {silent:.0f} s")

    def _receive(self, link: Connection, seconds: float) -> None:
        end = time.monotonic() + seconds
        while link.fileno() >= 0 and (left := end - time.monotonic()) > 0 and protocol.readable([link], left):
            messages = link.messages()
            for message in messages or []:
                self._heard = True
                if "code" in message:
                    self._say_where_it_stands()
                    os._exit(message["code"])
                if "own" in message:
                    self._own_error.set()
                    self._reported.set()
            if messages is None:
                link.socket.close()
                if not self._own_error.is_set():
                    os._exit(RankLost.exit_code)  # without its guard a rank could wait for ever

    def _say_where_it_stands(self) -> None:
        if stands := last_collective():
            say(f"rank {self.config.rank} stands at {stands}", error=True)

    def _without_guard(self, why: str) -> None:
        """The guard is stopped, or hangs. Others that it should answer find out as late as this rank does."""
        protocol.report(
            f"rank {self.config.rank} on {socket.gethostname()} ends: its guard (process "
            f"{self._process.pid}) was {why}",
            self._run_dir,
        )
        self._process.kill()
        os._exit(RankLost.exit_code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:  # what a launcher repeats is the same request
            signal.signal(other, signal.SIG_IGN)
        let_go_of_terminal(number)
        if self.link:
            # Launchers follow a lost rank with a signal to the others: then its loss is the reason.
            time.sleep(SECONDS_FOR_AN_OUTCOME)
        self.leave(Preempted.exit_code, "stopped by a signal")
        say(f"stopped by signal {number} while nothing was trained: the same command goes on", error=True)
        os._exit(Preempted.exit_code)

    def leave(self, code: int, why: str = "") -> None:
        """Says that this rank ends by itself. If others do not, they are ended with the same code and told
        `why`.
        """
        if self.link:
            self._own_error.set()
            self.link.send(left=code, why=why)

    def reported_by_another(self) -> bool:
        """Whether rank 0 has the error with which this rank left, or its coordinator has reported it. Waits
        for that.
        """
        return bool(self.link and self.config.rank and self._reported.wait(SECONDS_TO_BE_REPORTED))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _watchdog
        _watchdog = None
        for number, handler in self._previous.items():
            signal.signal(
                number, handler if error is None or isinstance(error, UserError) else signal.SIG_IGN
            )
        if error is None:
            self.leave(0)
        elif isinstance(error, UserError):
            self.leave(error.exit_code, f"{error}")
        elif self.link:
            stands = last_collective()
            at = f" (at {stands})" if stands else ""
            self.link.send(why=f"{type(error).__name__}: {str(error)[:500]}{at}")
            self._own_error.wait(self._fault_timeout)


def _listen(address: str) -> socket.socket:
    try:
        return listening_socket(address)
    except OSError as error:
        remedy = "Set MASTER_ADDR to a name or an address of the host of rank 0"
        if error.errno == errno.EADDRINUSE:
            remedy = (
                "All ports that the system gives out are taken: end what holds them (ss -tan), or widen "
                "net.ipv4.ip_local_port_range"
            )
        raise LaunchError(
            f"MASTER_ADDR={address}: no port could be opened there for the guards of the ranks ({error}). "
            f"{remedy}"
        ) from error


def _start(config: Config, fds: list[int]) -> subprocess.Popen[bytes]:
    """The configuration goes through a pipe: other users can read a command line."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(protocol.__file__).parent)],
        pass_fds=fds,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(dataclasses.asdict(config)).encode())
    return process
