"""Watches one rank, its launcher and the hub, and ends the rank when it must."""

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
from typing import Any

from .duty import BOARD, EXIT_CODE, Duty, beats
from .line import Line, Message, connected, selectable
from .processes import launchers_of, process_state, start_of
from .verdict import say


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
        self._seek_hub(
            0.0
        )  # at once: a rank that is lost before the hub knows of it is waited for five times as long
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
                self._without_hub(
                    f"not heard of for {self.hub_silent:.0f} s: the host or its network is down, or it hangs"
                )

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
        self._understand_hub(messages or [])

    def _understand_hub(self, messages: list[Message]) -> None:
        for message in messages:
            if "code" in message:
                self._end(code=message["code"], own=message["own"])
            elif "step" in message:
                self.leader = message

    def _seek_hub(self, waited: float) -> None:
        for port in self.duty.ports:
            with contextlib.suppress(OSError, ValueError):
                line = Line(connected(self.duty.address, port, self.duty.beat))
                age = time.monotonic() - self.duty.since
                line.send(
                    token=self.duty.token,
                    rank=self.duty.rank,
                    host=socket.gethostname(),
                    age=age,
                    **self._position(),
                )
                answers = line.messages() if selectable([line], 2.0) else None
                if answers and answers[0].get("welcome") == self.duty.token:
                    self.hub = line
                    for message in self.kept:
                        line.send(**message)
                    self._understand_hub(answers[1:])
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
        """Closes the line so that what was sent last arrives: with unread beats in it the system would drop
        it.
        """
        if self.hub and self.hub.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.hub.socket.shutdown(socket.SHUT_WR)
            end = time.monotonic() + 1
            while time.monotonic() < end and selectable([self.hub], 0.5) and self.hub.messages() is not None:
                pass

    def _without_hub(self, why: str) -> None:
        if self.leader["leader_left"]:
            return
        if (
            self.duty.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
        ):  # once a host: nobody is left to say it for all
            after = f" lost after step {self.leader['step']}" if self.hub else ""
            say(f"rank 0 on {self.leader['host']}{after}: {why}", self.duty)
        self._end(code=EXIT_CODE, own=False)

    def _end(self, *, code: int, own: bool) -> None:
        """Ends the rank: it is told to exit with `code`, and killed if it does not. One whose `own` error it
        is ends with its traceback.
        """
        own = own or self.rank_leaves
        self.link.send(own=True) if own else self.link.send(code=code)
        end = time.monotonic() + (self.duty.silence if own else min(3.0, 0.2 * self.duty.timeout))
        while not self._rank_is_gone() and time.monotonic() < end and process_state(self.duty.pid) != "T":
            time.sleep(0.02)
        if not self._rank_is_gone():
            os.kill(self.duty.pid, signal.SIGKILL)
        sys.exit()
