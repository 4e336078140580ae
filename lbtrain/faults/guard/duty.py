"""What a rank and its guard agree on: whom to guard, how long to wait, and the memory that both share."""

import dataclasses
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BOARD = struct.Struct("q24s")
"""What a rank writes where its guard reads it, in memory that both share: the last finished step, and what it
is doing.
"""

EXIT_CODE = 4
"""Of the ranks that end because another part of the job was lost (lbtrain.errors.RankLost)."""

_PORTS_TRIED = 8


@dataclass(frozen=True)
class Duty:
    """Whom to guard. `link` and `board` are file descriptors shared with the rank; `token` is equal for all
    ranks of one job, and for the same command given again; `since` is when the guard was wanted, by this
    host's monotonic clock.
    """

    rank: int
    world_size: int
    pid: int
    address: str
    token: str
    timeout: float
    run_dir: str
    since: float
    link: int
    board: int

    @property
    def beat(self) -> float:
        """Seconds between two beats."""
        return min(1.0, self.timeout / 20)

    @property
    def silence(self) -> float:
        """Seconds without a beat after which somebody is lost: what is left of the timeout is for telling and
        ending all ranks.
        """
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


def as_argument(duty: Duty) -> str:
    """As one word of the guard's command line."""
    return json.dumps(dataclasses.asdict(duty))


def beats(interval: float, work: Callable[[float], None]) -> Iterator[float]:
    """Does `work` for one interval after another and yields the seconds that each counts for, however long it
    was really away.
    """
    while True:
        started = time.monotonic()
        work(interval)
        yield min(time.monotonic() - started, 2 * interval)
