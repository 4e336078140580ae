"""The guard of one rank: it watches the rank, its launcher and the coordinator, and ends the rank when it
must. That of rank 0 runs the coordinator beside it.
"""

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .coordinator import Coordinator
from .protocol import (
    BOARD,
    EXIT_CODE,
    SIGNALS,
    AuthenticatedConnection,
    Config,
    Connection,
    Message,
    Rendezvous,
    addresses,
    heartbeats,
    readable,
    report,
)


def main(config_json: str) -> None:
    # The rank decides what a signal means; its guard ends when the rank does.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    config = Config(**json.loads(config_json))
    if config.rank == 0:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one connection a rank
        Coordinator(config, socket.socket(fileno=config.listener)).start()
    Guard(config).watch()


class Guard:
    """Watches its own rank and its launcher, and the coordinator."""

    def __init__(self, config: Config):
        self.config = config
        self.link = Connection(socket.socket(fileno=config.link))
        self.board = mmap.mmap(config.board, BOARD.size)
        self.launchers = launchers_of(config.pid)
        self.coordinator: AuthenticatedConnection | None = None
        self.rendezvous = Rendezvous(config.job, config.port, config.secret) if config.port else None
        self.pending: list[Message] = []
        self.coordinator_silent = self.stopped = 0.0
        self.leader: Message = {"host": config.address, "step": 0, "leader_left": False}
        self.reported = self.rank_leaves = False

    def watch(self) -> None:
        """Until the rank is gone."""
        started = time.monotonic()
        # At once: a rank that is lost before the coordinator knows of it is waited for five times as long.
        self._seek_coordinator(0.0)
        for elapsed in heartbeats(self.config.beat, self._serve):
            if self.link.fileno() >= 0:
                self.link.send(heartbeat=True)
            if self.coordinator is None:
                self._seek_coordinator(time.monotonic() - started)
            waited = time.monotonic() - started
            if self._rank_is_gone() and (self.coordinator or waited > self.config.silence):
                self._report_end_of_rank()
                return
            if self.coordinator is not None:
                self._beat(self.coordinator, elapsed)

    def _beat(self, coordinator: AuthenticatedConnection, elapsed: float) -> None:
        self.coordinator_silent += elapsed
        coordinator.send(**self._position())
        self._look_at_rank(elapsed)
        if self.coordinator_silent > self.config.silence:
            self._without_coordinator(
                f"not heard of for {self.coordinator_silent:.0f} s: the host or its network is down, or it "
                "hangs"
            )

    def _report_end_of_rank(self) -> None:
        if self.link.fileno() >= 0:
            self._receive_from_rank()  # its last word
        self._report("its process is gone (killed, or crashed)")
        self._close()

    def _rank_is_gone(self) -> bool:
        return os.getppid() != self.config.pid

    def _position(self) -> Message:
        step, doing = BOARD.unpack(self.board[:])
        return {"step": step, "doing": doing.rstrip(b"\0").decode(errors="replace")}

    def _serve(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        if self._rank_is_gone():
            time.sleep(0.05)
        while (left := end - time.monotonic()) > 0 and not self._rank_is_gone():
            open_ones = [
                each for each in (self.link, self.coordinator) if each is not None and each.fileno() >= 0
            ]
            for connection in readable(open_ones, min(left, 0.2)):
                if connection is self.link:
                    self._receive_from_rank()
                else:
                    self._receive_from_coordinator()

    def _receive_from_rank(self) -> None:
        messages = self.link.messages()
        if messages is None:
            self.link.socket.close()
        for message in messages or []:
            if "secret" in message:
                self.rendezvous = Rendezvous(self.config.job, message["port"], message["secret"])
            else:
                self.rank_leaves |= "left" in message
                self._tell_coordinator(**message)

    def _receive_from_coordinator(self) -> None:
        assert self.coordinator is not None
        messages = self.coordinator.messages()
        if messages:
            self.coordinator_silent = 0.0
        if messages is None:
            self.coordinator.socket.close()
            self._without_coordinator("its process is gone, and its guard with it")
        self._handle_coordinator(messages or [])

    def _handle_coordinator(self, messages: list[Message]) -> None:
        for message in messages:
            if "code" in message:
                self._end(code=message["code"], own=message["own"])
            elif "step" in message:
                self.leader = message

    def _seek_coordinator(self, waited: float) -> None:
        found = self.rendezvous or Rendezvous.read(self.config.run_dir, self.config.job)
        with contextlib.suppress(OSError):
            if found and any(
                self._join(family, address, found.secret)
                for family, address in addresses(self.config.address, found.port)
            ):
                return
        if waited > self.config.join:
            self._without_coordinator(f"it did not report within {self.config.join:.0f} s of the start")

    def _join(self, family: int, address: Any, secret: str) -> bool:
        """Whether the coordinator listens there, has shown that it knows the secret, and takes this rank."""
        patience = min(2.0, self.config.silence / 6)
        connected = socket.socket(family, socket.SOCK_STREAM)
        connected.settimeout(patience)
        try:
            connected.connect(address)
        except OSError:
            connected.close()
            return False
        connection = AuthenticatedConnection(connected, secret, "guard")
        if self._answers(connection, patience) is not None and connection.greeted:
            age = time.monotonic() - self.config.since
            connection.send(rank=self.config.rank, host=socket.gethostname(), age=age, **self._position())
            answers = self._answers(connection, patience)
            if answers and answers[0].get("welcome"):
                self._use(connection, answers[1:])
                return True
        connected.close()
        return False

    def _answers(self, connection: Connection, patience: float) -> list[Message] | None:
        return connection.messages() if readable([connection], patience) else None

    def _use(self, connection: AuthenticatedConnection, messages: list[Message]) -> None:
        self.coordinator = connection
        connection.send(**self._position())  # it confirms that the welcome has come
        for message in self.pending:
            connection.send(**message)
        self._handle_coordinator(messages)

    def _look_at_rank(self, elapsed: float) -> None:
        self.stopped = self.stopped + elapsed if process_state(self.config.pid) == "T" else 0.0
        if self.stopped > self.config.silence:
            self._report(f"stopped (SIGSTOP) for {self.stopped:.0f} s")
        for pid, started in self.launchers:
            if start_of(pid) != started:
                self._report(f"its launcher (process {pid}) is gone")

    def _report(self, why: str) -> None:
        if not self.reported:
            self._tell_coordinator(ended=why)

    def _tell_coordinator(self, **message: Any) -> None:
        """What became of the rank; kept until the coordinator is found."""
        self.reported = True
        message |= self._position()
        if self.coordinator:
            self.coordinator.send(**message)
        else:
            self.pending.append(message)

    def _close(self) -> None:
        """Closes the connection so that what was sent last arrives: with unread heartbeats in it the system
        would drop it.
        """
        if self.coordinator and self.coordinator.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.coordinator.socket.shutdown(socket.SHUT_WR)
            end = time.monotonic() + 1
            while time.monotonic() < end and self._answers(self.coordinator, 0.5) is not None:
                pass

    def _without_coordinator(self, why: str) -> None:
        if self.leader["leader_left"]:
            return
        # Once a host: nobody is left to say it for all. A rank that has ended by itself has its own reason.
        speaks = self.config.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
        if speaks and not self.rank_leaves:
            after = f" lost after step {self.leader['step']}" if self.coordinator else ""
            report(f"rank 0 on {self.leader['host']}{after}: {why}", self.config.run_dir)
        self._end(code=EXIT_CODE, own=False)

    def _end(self, *, code: int, own: bool) -> None:
        """Ends the rank: it is told to exit with `code`, and killed if it does not. One whose `own` error it
        is ends with its traceback.
        """
        own = own or self.rank_leaves
        self.link.send(own=True) if own else self.link.send(code=code)
        end = time.monotonic() + (self.config.silence if own else min(3.0, 0.2 * self.config.timeout))
        while not self._rank_is_gone() and time.monotonic() < end and process_state(self.config.pid) != "T":
            time.sleep(0.02)
        if not self._rank_is_gone():
            os.kill(self.config.pid, signal.SIGKILL)
        sys.exit()


_LAUNCHERS = {
    "deepspeed", "torchrun", "accelerate",
    "torch.distributed.run", "deepspeed.launcher.launch", "accelerate.commands.launch",
}  # fmt: skip


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def process_state(pid: int) -> str:
    """The letter that the system gives it (T stopped, Z ended and not waited for); empty where there is no
    such process.
    """
    return next(iter(stat_of(pid)), "")


def start_of(pid: int) -> str:
    """When a living process started, to tell it from a later one of the same number; empty if it is gone."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def launchers_of(pid: int) -> list[tuple[int, str]]:
    """The ancestors of a process that are launchers, and the runner of a launch over hosts if it runs on this
    one: pid and start.
    """
    found, words = [], []
    while (fields := stat_of(pid)) and (pid := int(fields[1])) > 1:
        command = command_of(pid)
        if {Path(word).name for word in command[:6]} & _LAUNCHERS:
            found.append(pid)
            words += [word for word in command if word.startswith("--world_info=")]
    for word in words[:1]:
        found += [other for pair in _runner(word) for other in pair]
    return [(number, start_of(number)) for number in dict.fromkeys(found) if number > 1]


def _runner(world_info: str) -> Iterator[tuple[int, int]]:
    """deepspeed over several hosts starts its launchers through ssh: only pdsh, with the same world in its
    words, is the runner's child.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        command = command_of(int(folder.name))
        if command and Path(command[0]).name == "pdsh" and any(world_info in word for word in command):
            fields = stat_of(int(folder.name))
            if fields and "pdsh" not in Path((command_of(int(fields[1])) or [""])[0]).name:
                yield int(folder.name), int(fields[1])


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
