"""Hears the guards of all ranks, and decides what was lost."""

import contextlib
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

from .duty import EXIT_CODE, Duty, beats
from .line import Line, Message
from .member import Member
from .verdict import say, told


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
        self.causes: dict[int, str] = {}
        self.code, self.decided_at = EXIT_CODE, 0.0
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
            if member.rank < 0 and not self._is_ours(message):
                messages = None
                break
            self._understand(member, message)
        if messages is None:
            self.selector.unregister(member.line.socket)
            member.line.socket.close()
            if member.rank >= 0 and member.rank not in self.left:
                self.lost.setdefault(member.rank, "its process is gone, and its guard with it")

    def _is_ours(self, message: Message) -> bool:
        """Whether a first message is of this start of this job: one that is younger than the verdict comes
        from the next.
        """
        if not isinstance(message, dict) or message.get("token") != self.duty.token:
            return False
        return not self.causes or message["age"] > time.monotonic() - self.decided_at

    def _understand(self, member: Member, message: Message) -> None:
        if "token" in message:
            member.rank, member.host = message["rank"], message["host"]
            self.members[member.rank] = member
            member.line.send(welcome=self.duty.token)
            if self.causes:
                self._send_verdict(member)
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
            member.line.send(
                host=leader.host if leader else "",
                step=leader.step if leader else 0,
                leader_left=0 in self.left,
            )
            if member.silent > self.duty.silence:
                self.lost.setdefault(
                    member.rank,
                    f"not heard of for {member.silent:.0f} s: the host or its network is down, or it hangs",
                )
        absent = [rank for rank in range(self.duty.world_size) if rank not in self.members]
        if absent and self.lived > self.duty.join:
            self.lost |= dict.fromkeys(
                absent, f"it did not report within {self.duty.join:.0f} s of the start"
            )
        self.since_failure += elapsed if self.failed else 0.0
        self.since_leader_left += elapsed if 0 in self.left else 0.0
        if self.since_leader_left > self.duty.silence:
            self.lost |= {member.rank: "it did not end with the others" for member in here}

    def _nobody_but_failures(self) -> bool:
        """Whether an error that a rank reported is the cause: nobody whose loss could have caused it is
        missing.
        """
        waiting = any(
            member.silent > 3 * self.duty.beat
            for member in self.members.values()
            if member.rank not in self.left
        )
        return self.since_failure > max(3 * self.duty.beat, 1.0) and not waiting

    def _tell(self) -> None:
        self.causes = dict(self.lost) or self._first_failure()
        self.code = self.left.get(next(iter(self.causes)), EXIT_CODE)
        self.decided_at = time.monotonic()
        for member in self.members.values():
            self._send_verdict(member)
        say(told(self.causes, self.members), self.duty)
        while self._is_somebody_to_come(time.monotonic() - self.decided_at):
            self._serve(self.duty.beat)
        self.listener.close()

    def _first_failure(self) -> dict[int, str]:
        """Of a rank that left by itself, if there is one: the exchanges of the others broke when it went,
        whoever was heard first.
        """
        rank = next((rank for rank in self.failed if rank in self.left), next(iter(self.failed)))
        return {rank: self.failed[rank]}

    def _send_verdict(self, member: Member) -> None:
        own = self.causes.get(member.rank, "") == self.failed.get(member.rank)
        member.line.send(code=self.code, own=own)

    def _is_somebody_to_come(self, waited: float) -> bool:
        """Whether those who were told have yet to hang up, or a guard that was slow to start has yet to hear
        of it.
        """
        hanging_up = any(member.line.fileno() >= 0 for member in self.members.values())
        late = len(self.members) < self.duty.world_size and self.lived < self.duty.join
        return (hanging_up and waited < 1 + self.duty.beat) or (late and waited < self.duty.silence)
