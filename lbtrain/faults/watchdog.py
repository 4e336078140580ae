"""A rank's side of its guard (lbtrain.faults.guard): starts it, tells it the step, and exits when it says
that a part of the job is lost.

Costs a training step one write of 32 bytes to memory. A thread waits for the guard's word in the system, not
in Python; it acts also while the main thread waits in an exchange. Only dead, stopped and unreachable
processes are faults: long steps, evaluations, checkpoints and compilations are not, since the guard beats for
the rank. A main thread that hangs by itself is found by the time limit of the process group's exchanges.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from mmap import mmap
from pathlib import Path
from types import FrameType, TracebackType

from lbtrain.errors import Preempted, RankLost, UserError
from lbtrain.faults import guard

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What schedulers and people send to ask a job to end."""

SECONDS_FOR_A_VERDICT = 2.0

_board: bytearray | mmap = bytearray(guard.BOARD.size)  # nobody's, until a watchdog shares one with its guard


def at(step: int, doing: str) -> None:
    """Notes the last finished step and what goes on now; what others are told if this rank is lost."""
    guard.BOARD.pack_into(_board, 0, step, doing.encode())


class Watchdog:
    """Watches, inside its `with` block, over the ranks that a launcher started together. A rank alone needs
    and gets none.

    A signal while nothing trains yet, or any more (lbtrain.faults.stopping answers it in between), ends the
    process with the code of Preempted. An error that leaves the block is reported; where it only followed
    from the loss of another rank, the process exits in here.
    """

    def __init__(self, *, fault_timeout: float, run_dir: str):
        self._fault_timeout, self._run_dir = fault_timeout, run_dir
        self._own_error = threading.Event()
        self._link: socket.socket | None = None

    def __enter__(self) -> "Watchdog":
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        rank, world_size, address, port = (
            os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        )
        if rank.isdigit() and world_size.isdigit() and int(world_size) > 1 and address and port:
            self._start_guard(
                int(rank),
                int(world_size),
                address,
                f"{address}:{port}:{os.environ.get('TORCHELASTIC_RUN_ID', '')}",
            )
        return self

    def _start_guard(self, rank: int, world_size: int, address: str, token: str) -> None:
        global _board
        self._link, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as shared:
            shared.write(bytes(guard.BOARD.size))
            shared.flush()
            _board = mmap(shared.fileno(), guard.BOARD.size)
            at(0, "start-up")
            fds = theirs.fileno(), shared.fileno()
            duty = guard.Duty(
                rank,
                world_size,
                os.getpid(),
                address,
                token,
                self._fault_timeout,
                self._run_dir,
                time.monotonic(),
                *fds,
            )
            command = [sys.executable, "-I", "-S", str(Path(guard.__file__).parent), guard.as_argument(duty)]
            self._process = subprocess.Popen(
                command, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True
            )
        theirs.close()
        threading.Thread(target=self._listen, args=[self._link], daemon=True).start()

    def _listen(self, link: socket.socket) -> None:
        with link.makefile("r") as lines:
            for line in lines:
                message = json.loads(line)
                if "code" in message:
                    os._exit(message["code"])
                self._own_error.set()
        if not self._own_error.is_set():
            os._exit(RankLost.exit_code)  # without its guard a rank could wait for ever

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:  # what a launcher repeats is the same request
            signal.signal(other, signal.SIG_IGN)
        if self._link:
            time.sleep(
                SECONDS_FOR_A_VERDICT
            )  # launchers follow a lost rank with a signal to the others: then its loss is the reason
        self.leave(Preempted.exit_code, "stopped by a signal")
        print(
            f"stopped by signal {number} while nothing was trained: the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(Preempted.exit_code)

    def leave(self, code: int, why: str = "") -> None:
        """Says that this rank ends by itself. If others do not, they are ended with the same code and told
        `why`.
        """
        if self._link:
            self._own_error.set()
            self._link.sendall(json.dumps({"left": code, "why": why}).encode() + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(
                number, handler if error is None or isinstance(error, UserError) else signal.SIG_IGN
            )
        if error is None:
            self.leave(0)
        elif isinstance(error, UserError):
            self.leave(error.exit_code, f"{error}")
        elif self._link:
            self._link.sendall(
                json.dumps({"why": f"{type(error).__name__}: {str(error)[:500]}"}).encode() + b"\n"
            )
            self._own_error.wait(self._fault_timeout)
