"""The coordinator: it hears from the guards of all ranks, and decides which part of the job was lost.

What reaches its socket is a stranger until it has shown that it knows the job's secret: a stranger gets a
nonce, a few seconds and one line. Once every rank has joined, the socket is closed.
"""

import contextlib
import ipaddress
import selectors
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from .protocol import (
    EXIT_CODE,
    AuthenticatedConnection,
    Config,
    Message,
    Rendezvous,
    addresses,
    heartbeats,
    report,
)

HANDSHAKE = 5.0
"""Seconds for a connection to show that it knows the secret."""

STRANGERS = 64
"""Connections beyond one a rank that may be about to show it; one more, and the oldest is closed."""


@dataclass
class RankState:
    """What the coordinator knows of one rank; of a connection (rank -1) that has not shown yet whose it is.

    A rank is `confirmed` by its first message after the welcome: one that has given up waiting and tries
    again is not lost.
    """

    connection: AuthenticatedConnection
    rank: int = -1
    host: str = ""
    step: int = 0
    doing: str = ""
    silent: float = 0.0
    confirmed: bool = False


@dataclass(eq=False)
class Coordinator(threading.Thread):
    """Lives in the guard of rank 0."""

    config: Config
    listener: socket.socket
    ranks: dict[int, RankState] = field(default_factory=dict)
    strangers: list[RankState] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=False)
        self.selector = selectors.DefaultSelector()
        self.causes: dict[int, str] = {}
        self.code, self.decided_at = EXIT_CODE, 0.0
        self.lived = self.since_failure = self.since_leader_left = 0.0

    def run(self) -> None:
        try:
            self._coordinate()
        finally:
            rendezvous = Rendezvous(self.config.job, self.config.port, self.config.secret)
            rendezvous.remove(self.config.run_dir, made=self.config.made_run_dir)

    def _coordinate(self) -> None:
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        for elapsed in heartbeats(self.config.beat, self._serve):
            self.lived += elapsed
            self._end_handshakes(elapsed)
            self._beat(elapsed)
            if self.lost or self._nobody_but_failures():
                break
            if len(self.left) == self.config.world_size:
                return
        self._serve(self.config.beat)  # a host takes all its ranks along: hear of the others too
        self._announce()

    def _serve(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                if key.data is None:
                    self._accept()
                else:
                    self._receive(key.data)

    def _accept(self) -> None:
        if self.listener.fileno() < 0:
            return  # closed since it was selected
        with contextlib.suppress(OSError):
            connected, _ = self.listener.accept()
            state = RankState(AuthenticatedConnection(connected, self.config.secret, "coordinator"))
            self.selector.register(connected, selectors.EVENT_READ, state)
            self.strangers.append(state)
            if len(self.strangers) > self.config.world_size + STRANGERS:
                self._disconnect(self.strangers[0])

    def _receive(self, state: RankState) -> None:
        if state.connection.fileno() < 0:
            return  # closed since it was selected
        messages = state.connection.messages()
        if messages and state.rank < 0 and not self._join(state, messages.pop(0)):
            messages = None
        for message in messages or []:
            self._handle(state, message)
        if messages is None:
            self._disconnect(state)

    def _join(self, state: RankState, message: Message) -> bool:
        """Whether a first message names a rank of this start of this job that nobody is yet. One that is
        younger than the outcome comes from the next start.
        """
        rank, age = message.get("rank", -1), message.get("age", 0.0)
        if not 0 <= rank < self.config.world_size or rank in self.ranks:
            return False
        if self.causes and age <= time.monotonic() - self.decided_at:
            return False
        self.strangers.remove(state)
        self.ranks[rank] = state
        state.rank, state.host, state.silent = rank, message.get("host", ""), 0.0
        state.step, state.doing = message.get("step", 0), message.get("doing", "")
        state.connection.send(welcome=True)
        if self.causes:
            self._send_outcome(state)
        return True

    def _handle(self, state: RankState, message: Message) -> None:
        state.confirmed, state.silent = True, 0.0
        state.step, state.doing = message.get("step", state.step), message.get("doing", state.doing)
        if "ended" in message:
            self.lost.setdefault(state.rank, message["ended"])
        if "left" in message:
            self.left[state.rank] = message["left"]
        if message.get("why"):
            self.failed.setdefault(state.rank, message["why"])

    def _disconnect(self, state: RankState) -> None:
        self.selector.unregister(state.connection.socket)
        state.connection.socket.close()
        if state.rank < 0:
            self.strangers.remove(state)
        elif not state.confirmed and not self.causes:
            del self.ranks[state.rank]
        elif state.rank not in self.left:
            self.lost.setdefault(state.rank, "its process is gone, and its guard with it")

    def _end_handshakes(self, elapsed: float) -> None:
        for state in list(self.strangers):
            state.silent += elapsed
            if state.silent > HANDSHAKE:
                self._disconnect(state)
        confirmed = sum(state.confirmed for state in self.ranks.values())
        if confirmed == self.config.world_size and self.listener.fileno() >= 0:
            self._stop_listening()

    def _stop_listening(self) -> None:
        """Nobody is to come any more."""
        self.selector.unregister(self.listener)
        self.listener.close()
        for state in list(self.strangers):
            self._disconnect(state)

    def _beat(self, elapsed: float) -> None:
        here = [state for rank, state in self.ranks.items() if rank not in self.left]
        leader = self.ranks.get(0)
        for state in here:
            state.silent += elapsed
            state.connection.send(
                host=leader.host if leader else "",
                step=leader.step if leader else 0,
                leader_left=0 in self.left,
            )
            if state.silent > self.config.silence:
                self.lost.setdefault(
                    state.rank,
                    f"not heard of for {state.silent:.0f} s: the host or its network is down, or it hangs",
                )
        absent = [rank for rank in range(self.config.world_size) if rank not in self.ranks]
        if absent and self.lived > self.config.join:
            self.lost |= dict.fromkeys(
                absent, f"it did not report within {self.config.join:.0f} s of the start"
            )
        self.since_failure += elapsed if self.failed else 0.0
        self.since_leader_left += elapsed if 0 in self.left else 0.0
        if self.since_leader_left > self.config.silence:
            self.lost |= {state.rank: "it did not end with the others" for state in here}

    def _nobody_but_failures(self) -> bool:
        """Whether an error that a rank reported is the cause: nobody whose loss could have caused it is
        missing.
        """
        waiting = any(
            state.silent > 3 * self.config.beat
            for state in self.ranks.values()
            if state.rank not in self.left
        )
        return self.since_failure > max(3 * self.config.beat, 1.0) and not waiting

    def _announce(self) -> None:
        self.causes = dict(self.lost) or self._first_failure()
        self.code = self.left.get(next(iter(self.causes))) or EXIT_CODE
        self.decided_at = time.monotonic()
        for state in self.ranks.values():
            self._send_outcome(state)
        others = format_positions(self.causes, self.ranks)
        report(format_loss(self.causes, self.ranks), self.config.run_dir, code=self.code, others=others)
        for elapsed in heartbeats(self.config.beat, self._serve):
            self._end_handshakes(elapsed)
            if not self._is_somebody_to_come(time.monotonic() - self.decided_at):
                break
        self.listener.close()

    def _first_failure(self) -> dict[int, str]:
        """Of a rank that left by itself, if there is one: the exchanges of the others broke when it went,
        whoever was heard first.
        """
        rank = next((rank for rank in self.failed if rank in self.left), next(iter(self.failed)))
        return {rank: self.failed[rank]}

    def _send_outcome(self, state: RankState) -> None:
        own = self.causes.get(state.rank, "") == self.failed.get(state.rank)
        state.connection.send(code=self.code, own=own)

    def _is_somebody_to_come(self, waited: float) -> bool:
        """Whether those who know the outcome have yet to hang up, or a guard that was slow to start does not
        know it yet.
        """
        hanging_up = any(state.connection.fileno() >= 0 for state in self.ranks.values())
        late = len(self.ranks) < self.config.world_size and self.lived < self.config.join
        return (hanging_up and waited < 1 + self.config.beat) or (late and waited < self.config.silence)


def format_loss(causes: dict[int, str], ranks: dict[int, RankState]) -> str:
    """What was lost, by host and reason: `rank 3 on node02 lost after step 17 (evaluation): its process
    ended`.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, why in sorted(causes.items()):
        groups[ranks[rank].host if rank in ranks else "a host that is not known yet", why].append(rank)
    return "; ".join(_format_group(lost, host, why, ranks) for (host, why), lost in groups.items())


def _format_group(lost: list[int], host: str, why: str, ranks: dict[int, RankState]) -> str:
    who = f"rank{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))} on {host}"
    known = [ranks[rank] for rank in lost if rank in ranks]
    if not known:
        return f"{who}: {why}"
    last = max(known, key=lambda state: state.step)
    return f"{who} lost after step {last.step}" + (f" ({last.doing})" if last.doing else "") + f": {why}"


def listening_socket(name: str) -> socket.socket:
    """A socket for the coordinator, on a port that the system chooses: nobody can hold it beforehand.

    It listens where the peers come from: on the address of MASTER_ADDR. On all of this host's addresses only
    where that is none of them (a service name in front of it), or where /etc/hosts gives the host's own name
    a loopback address, which its peers do not see. Raises OSError.
    """
    for family, address in addresses(name, 0):
        if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback and not _is_loopback_name(name):
            break
        with contextlib.suppress(OSError):
            return socket.create_server(address, family=family, backlog=1024)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=dual)


def _is_loopback_name(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"


def format_positions(causes: dict[int, str], ranks: dict[int, RankState]) -> str:
    """Where all other ranks stand: `ranks 0, 2 after step 17 (training); rank 1 after step 16 (...)`."""
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for rank, state in sorted(ranks.items()):
        if rank not in causes:
            groups[state.step, state.doing].append(rank)
    return "; ".join(
        f"rank{'s' if len(group) > 1 else ''} {', '.join(map(str, group))} after step {step}"
        + (f" ({doing})" if doing else "")
        for (step, doing), group in groups.items()
    )
