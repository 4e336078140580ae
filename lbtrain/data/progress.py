"""A line now and then about work that takes long before a run starts."""

import os
import time

from lbtrain.output import say

SECONDS_BETWEEN_LINES = 2.0


class Progress:
    """Says on stderr, on rank 0, how much of `total` is done and how long the rest will take, or how much is
    done where the total is not known (0); nothing about work of less than two seconds.
    """

    def __init__(self, what: str, total: int = 0):
        self.what, self.total = what, total
        self.started = self.said = time.monotonic()
        self.done = 0
        self.speaks = os.environ.get("RANK", "0") == "0"

    def add(self, done: int) -> None:
        self.done += done
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES or not self.speaks:
            return
        self.said = now
        say(f"{self.what}: {self._state(now)}", error=True)

    def _state(self, now: float) -> str:
        if not self.total:
            return f"{self.done:,} so far"
        left = (now - self.started) * (self.total - self.done) / max(1, self.done)
        return f"{self.done / self.total:.0%}, about {left:.0f} s left"
