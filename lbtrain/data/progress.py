"""A line now and then about work that takes long before a run starts."""

import os
import sys
import time

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Says on stderr, on rank 0, how much of `total` is done and how long the rest will take; nothing about
    work of a few seconds.
    """

    def __init__(self, what: str, total: int):
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
        left = (now - self.started) * (self.total - self.done) / max(1, self.done)
        print(
            f"{self.what}: {self.done / self.total:.0%}, about {left:.0f} s left", file=sys.stderr, flush=True
        )
