"""The guard of one rank: a small process beside it that notices when a part of the job is lost, and ends its own rank then.

A rank that is stopped, or waits in an exchange for a peer that is gone, cannot help itself; its guard can. Guards keep to themselves: no
torch, no collective, only the standard library, and one connection each to the hub in rank 0's guard. Every beat carries the rank's last
step. The hub decides what was lost and tells all; a guard whose hub is silent or gone ends its rank by itself.

Time is counted in beats that a guard lived through, so that a pause of the whole job (Ctrl-Z, a suspended machine) is no fault.
Run as a program by `lbtrain.watchdog`, with its `Duty` as JSON in the only argument.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOARD = struct.Struct("q24s")
"""What a rank writes where its guard reads it, in memory that both share: the last finished step, and what it is doing."""

EXIT_CODE = 4
"""Of the ranks that end because another part of the job was lost (lbtrain.errors.RankLost)."""

Message = dict[str, Any]
_PORTS_TRIED = 8
_LAUNCHERS = {"deepspeed", "torchrun", "accelerate", "torch.distributed.run", "deepspeed.launcher.launch", "accelerate.commands.launch"}


@dataclass(frozen=True)
class Duty:
    """Whom to guard. `link` and `board` are file descriptors shared with the rank; `token` is equal for all ranks of one job."""

    rank: int
    world_size: int
    pid: int
    address: str
    token: str
    timeout: float
    run_dir: str
    link: int
    board: int

    @property
    def beat(self) -> float:
        """Seconds between two beats."""
        return min(1.0, self.timeout / 20)

    @property
    def silence(self) -> float:
        """Seconds without a beat after which somebody is lost: what is left of the timeout is for telling and ending all ranks."""
        return 0.6 * self.timeout

    @property
    def join(self) -> float:
        """Seconds for all ranks to come: hosts of one launch may start minutes apart."""
        return 5 * self.timeout

    @property
    def ports(self) -> list[int]:
        """Where the hub listens, below the ports that systems hand out: the first that is free."""
        first = 20_000 + zlib.crc32(self.token.encode()) % 10_000
        return list(range(first, first + _PORTS_TRIED))


class Line:
    """Messages, one JSON object a line, over a socket that never blocks."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.socket.setblocking(False)
        self.received = b""
        self.unsent = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        self.unsent += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):  # who does not take it is found by its silence
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def messages(self) -> list[Message] | None:
        """What has come; None once the other end is closed."""
        closed = False
        try:
            while part := self.socket.recv(65536):
                self.received += part
            closed = True
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        *whole, self.received = self.received.split(b"\n")
        try:
            messages = [json.loads(line) for line in whole]
        except ValueError:
            return None  # not one of us
        return messages if messages or not closed else None


@dataclass
class Member:
    """What the hub knows of one rank."""

    line: Line
    rank: int = -1
    host: str = ""
    step: int = 0
    doing: str = ""
    silent: float = 0.0


@dataclass
class Hub(threading.Thread):
    """Hears the guards of all ranks and decides what was lost. Lives in the guard of rank 0."""

    duty: Duty
    listener: socket.socket
    members: dict[int, Member] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=False)
        self.selector = selectors.DefaultSelector()
        self.lived = self.since_failure = self.since_leader_left = 0.0

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        for elapsed in beats(self.duty.beat, self._serve):
            self.lived += elapsed
            self._beat(elapsed)
            if self.lost or self._nobody_but_failures():
                break
            if len(self.left) == self.duty.world_size:
                return
        self._serve(self.duty.beat)  # a host takes all its ranks along: hear of the others too
        self._tell()

    def _serve(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            member = Member(Line(connection))
            self.selector.register(connection, selectors.EVENT_READ, member)

    def _hear(self, member: Member) -> None:
        messages = member.line.messages()
        member.silent = 0.0
        for message in messages or []:
            if member.rank < 0 and (not isinstance(message, dict) or message.get("token") != self.duty.token):
                messages = None
                break
            self._understand(member, message)
        if messages is None:
            self.selector.unregister(member.line.socket)
            member.line.socket.close()
            if member.rank >= 0 and member.rank not in self.left:
                self.lost.setdefault(member.rank, "its process is gone, and its guard with it")

    def _understand(self, member: Member, message: Message) -> None:
        if "token" in message:
            member.rank, member.host = message["rank"], message["host"]
            self.members[member.rank] = member
            member.line.send(welcome=self.duty.token)
        member.step, member.doing = message.get("step", member.step), message.get("doing", member.doing)
        if "ended" in message:
            self.lost.setdefault(member.rank, message["ended"])
        if "left" in message:
            self.left[member.rank] = message["left"]
        if message.get("why"):
            self.failed.setdefault(member.rank, message["why"])

    def _beat(self, elapsed: float) -> None:
        here = [member for rank, member in self.members.items() if rank not in self.left]
        leader = self.members.get(0)
        for member in here:
            member.silent += elapsed
            member.line.send(host=leader.host if leader else "", step=leader.step if leader else 0, leader_left=0 in self.left)
            if member.silent > self.duty.silence:
                self.lost.setdefault(member.rank, f"not heard of for {member.silent:.0f} s: the host or its network is down, or it hangs")
        absent = [rank for rank in range(self.duty.world_size) if rank not in self.members]
        if absent and self.lived > self.duty.join:
            self.lost |= dict.fromkeys(absent, f"it did not report within {self.duty.join:.0f} s of the start")
        self.since_failure += elapsed if self.failed else 0.0
        self.since_leader_left += elapsed if 0 in self.left else 0.0
        if self.since_leader_left > self.duty.silence:
            self.lost |= {member.rank: "it did not end with the others" for member in here}

    def _nobody_but_failures(self) -> bool:
        """Whether an error that a rank reported is the cause: nobody whose loss could have caused it is missing."""
        waiting = any(member.silent > 3 * self.duty.beat for member in self.members.values() if member.rank not in self.left)
        return self.since_failure > max(3 * self.duty.beat, 1.0) and not waiting

    def _tell(self) -> None:
        self.selector.unregister(self.listener)
        self.listener.close()  # the next start of the same job must not meet this hub
        causes = self.lost or dict([next(iter(self.failed.items()))])
        text, code = told(causes, self.members), self.left.get(next(iter(causes)), EXIT_CODE)
        for member in self.members.values():
            member.line.send(code=code, own=not self.lost and member.rank in causes)
        say(text, self.duty)
        end = time.monotonic() + 1 + self.duty.beat
        while time.monotonic() < end and any(member.line.fileno() >= 0 for member in self.members.values()):
            self._serve(self.duty.beat)


def told(causes: dict[int, str], members: dict[int, Member]) -> str:
    """What was lost, by host and reason: `rank 3 on node02 was lost after step 17 (evaluation): its process ended`."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, why in sorted(causes.items()):
        groups[members[rank].host if rank in members else "a host that is not known yet", why].append(rank)
    return "; ".join(_one_group(ranks, host, why, members) for (host, why), ranks in groups.items())


def _one_group(ranks: list[int], host: str, why: str, members: dict[int, Member]) -> str:
    who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} on {host}"
    known = [members[rank] for rank in ranks if rank in members]
    if not known:
        return f"{who}: {why}"
    last = max(known, key=lambda member: member.step)
    return f"{who} lost after step {last.step}" + (f" ({last.doing})" if last.doing else "") + f": {why}"


def beats(interval: float, work: Callable[[float], None]) -> Iterator[float]:
    """Does `work` for one interval after another and yields the seconds that each counts for, however long it was really away."""
    while True:
        started = time.monotonic()
        work(interval)
        yield min(time.monotonic() - started, 2 * interval)


class Guard:
    """Watches its own rank and its launcher, and the hub."""

    def __init__(self, duty: Duty):
        self.duty = duty
        self.link = Line(socket.socket(fileno=duty.link))
        self.board = mmap.mmap(duty.board, BOARD.size)
        self.launchers = launchers_of(duty.pid)
        self.hub: Line | None = None
        self.kept: list[Message] = []
        self.hub_silent = self.stopped = 0.0
        self.leader: Message = {"host": duty.address, "step": 0, "leader_left": False}
        self.reported = self.rank_leaves = False

    def watch(self) -> None:
        """Until the rank is gone."""
        started = time.monotonic()
        for elapsed in beats(self.duty.beat, self._serve):
            if self.hub is None:
                self._seek_hub(time.monotonic() - started)
            if self._rank_is_gone() and (self.hub or time.monotonic() - started > self.duty.silence):
                if self.link.fileno() >= 0:
                    self._hear_rank()  # its last word
                self._report("its process is gone (killed, or crashed)")
                self._part()
                return
            if self.hub is None:
                continue
            self.hub_silent += elapsed
            self.hub.send(**self._position())
            self._look_at_rank(elapsed)
            if self.hub_silent > self.duty.silence:
                self._without_hub(f"not heard of for {self.hub_silent:.0f} s: the host or its network is down, or it hangs")

    def _rank_is_gone(self) -> bool:
        return os.getppid() != self.duty.pid

    def _position(self) -> Message:
        step, doing = BOARD.unpack(self.board[:])
        return {"step": step, "doing": doing.rstrip(b"\0").decode(errors="replace")}

    def _serve(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        if self._rank_is_gone():
            time.sleep(0.05)
        while (left := end - time.monotonic()) > 0 and not self._rank_is_gone():
            lines = [line for line in (self.link, self.hub) if line is not None and line.fileno() >= 0]
            for line in selectable(lines, min(left, 0.2)):
                if line is self.link:
                    self._hear_rank()
                else:
                    self._hear_hub()

    def _hear_rank(self) -> None:
        messages = self.link.messages()
        if messages is None:
            self.link.socket.close()
        for message in messages or []:
            self.rank_leaves |= "left" in message
            self._tell_hub(**message)

    def _hear_hub(self) -> None:
        assert self.hub is not None
        messages = self.hub.messages()
        self.hub_silent = 0.0
        if messages is None:
            self.hub.socket.close()
            self._without_hub("its process is gone, and its guard with it")
        for message in messages or []:
            if "code" in message:
                self._end(code=message["code"], own=message["own"])
            elif "step" in message:
                self.leader = message

    def _seek_hub(self, waited: float) -> None:
        for port in self.duty.ports:
            with contextlib.suppress(OSError, ValueError):
                line = Line(connected(self.duty.address, port, self.duty.beat))
                line.send(token=self.duty.token, rank=self.duty.rank, host=socket.gethostname(), **self._position())
                answers = line.messages() if selectable([line], 2.0) else None
                if answers and answers[0].get("welcome") == self.duty.token:
                    self.hub = line
                    for message in self.kept:
                        line.send(**message)
                    return
                line.socket.close()
        if waited > self.duty.join:
            self._without_hub(f"it did not report within {self.duty.join:.0f} s of the start")

    def _look_at_rank(self, elapsed: float) -> None:
        self.stopped = self.stopped + elapsed if process_state(self.duty.pid) == "T" else 0.0
        if self.stopped > self.duty.silence:
            self._report(f"stopped (SIGSTOP) for {self.stopped:.0f} s")
        for pid, started in self.launchers:
            if start_of(pid) != started:
                self._report(f"its launcher (process {pid}) is gone")

    def _report(self, why: str) -> None:
        if not self.reported:
            self._tell_hub(ended=why)

    def _tell_hub(self, **message: Any) -> None:
        """What became of the rank; kept until the hub is found."""
        self.reported = True
        message |= self._position()
        if self.hub:
            self.hub.send(**message)
        else:
            self.kept.append(message)

    def _part(self) -> None:
        """Closes the line so that what was sent last arrives: with unread beats in it the system would drop it."""
        if self.hub and self.hub.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.hub.socket.shutdown(socket.SHUT_WR)
            end = time.monotonic() + 1
            while time.monotonic() < end and selectable([self.hub], 0.5) and self.hub.messages() is not None:
                pass

    def _without_hub(self, why: str) -> None:
        if self.leader["leader_left"]:
            return
        if self.duty.rank == 1 or os.environ.get("LOCAL_RANK") == "0":  # once a host: nobody is left to say it for all
            after = f" lost after step {self.leader['step']}" if self.hub else ""
            say(f"rank 0 on {self.leader['host']}{after}: {why}", self.duty)
        self._end(code=EXIT_CODE, own=False)

    def _end(self, *, code: int, own: bool) -> None:
        """Ends the rank: it is told to exit with `code`, and killed if it does not. One whose `own` error it is ends with its traceback."""
        own = own or self.rank_leaves
        self.link.send(own=True) if own else self.link.send(code=code)
        end = time.monotonic() + (self.duty.silence if own else min(3.0, 0.2 * self.duty.timeout))
        while not self._rank_is_gone() and time.monotonic() < end and process_state(self.duty.pid) != "T":
            time.sleep(0.02)
        if not self._rank_is_gone():
            os.kill(self.duty.pid, signal.SIGKILL)
        sys.exit()


def say(text: str, duty: Duty) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to read it any more
        print(f"error: {text}. All ranks end; the same command goes on from the newest checkpoint", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), (Path(duty.run_dir) / "faults.log").open("a") as log:
        log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")


def selectable(lines: list[Line], seconds: float) -> list[Line]:
    """Those of `lines` that have something to read within so many seconds."""
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
        return [key.data for key, _ in selector.select(seconds)]


def connected(address: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=max(seconds, 0.5))


def listening(duty: Duty) -> socket.socket | None:
    """The hub's door; None if none of its ports is free (the guards then miss the hub and say so)."""
    for port in duty.ports:
        for dual in (True, False):  # both versions of IP where there are two
            with contextlib.suppress(OSError, ValueError):
                family = socket.AF_INET6 if dual else socket.AF_INET
                return socket.create_server(("", port), backlog=1024, family=family, dualstack_ipv6=dual)
    return None


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def process_state(pid: int) -> str:
    return next(iter(stat_of(pid)), "")


def start_of(pid: int) -> str:
    """When a living process started, to tell it from a later one of the same number; empty if it is gone."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def launchers_of(pid: int) -> list[tuple[int, str]]:
    """The ancestors of a process that are launchers, and the runner of a launch over hosts if it runs on this one: pid and start."""
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
    """deepspeed over several hosts starts its launchers through ssh: only pdsh, with the same world in its words, is the runner's child."""
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


def main(argument: str) -> None:
    # The rank decides what a signal means; its guard ends when the rank does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    duty = Duty(**json.loads(argument))
    if duty.rank == 0 and (listener := listening(duty)):
        Hub(duty, listener).start()
    Guard(duty).watch()


def as_argument(duty: Duty) -> str:
    return json.dumps(dataclasses.asdict(duty))


if __name__ == "__main__":
    main(sys.argv[1])
