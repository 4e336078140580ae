"""Which rank is slow, and where ranks stand when a job ends."""

import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from lab.ranks import run_on_ranks
from lbtrain.faults.guard.coordinator import RankState, format_positions
from lbtrain.monitors.stragglers import OwnTime, Straggler


class _Clock:
    """Seconds of a list, one a stamp."""

    def __init__(self, *times: float):
        self._times = iter(times)

    def stamp(self) -> float:
        return next(self._times)

    def settle(self) -> None: ...

    def seconds(self, before: float, after: float) -> float:
        return after - before


def test_own_time_is_that_of_all_micro_steps_without_what_lies_between() -> None:
    own = OwnTime(torch.device("cpu"), _Clock(0, 1, 10, 12, 20, 23))
    for _ in range(2):
        own.start()
        own.stop()
    assert own.for_rank(1, 3).tolist() == [0, 3, 0]
    own.restart()
    own.start()
    own.stop()
    assert own.for_rank(0, 3).tolist() == [3, 0, 0]
    assert own.slowest([3.0]) is None


def _late_by_rank(rank: int) -> Straggler | None:
    own = OwnTime(torch.device("cpu"))
    own.start()
    time.sleep(0.2 * (dist.get_rank() == rank))
    own.stop()
    seconds = own.for_rank(dist.get_rank(), dist.get_world_size())
    dist.all_reduce(seconds)
    return own.slowest(seconds.tolist())


def test_every_rank_names_the_slow_one_and_its_host() -> None:
    first, second = run_on_ranks(2, _late_by_rank, 1)
    assert first == second and first.rank == 1 and first.host
    assert 0.05 < first.wait < 5


@pytest.mark.parametrize(
    "causes, words",
    [
        ({2: "gone"}, "ranks 0, 1 after step 7 (training); rank 3 after step 6 (evaluation)"),
        ({0: "gone", 1: "gone", 2: "gone", 3: "gone"}, ""),
    ],
)
def test_ranks_at_one_place_are_named_together(causes, words) -> None:
    stands = [(7, "training"), (7, "training"), (6, "checkpoint"), (6, "evaluation")]
    ranks = {
        rank: RankState(None, rank, step=step, doing=doing)  # type: ignore[arg-type]
        for rank, (step, doing) in enumerate(stands)
    }
    assert format_positions(causes, ranks) == words


_ONE_REDUCTION = """
import torch, torch.distributed as dist
from lbtrain.faults.collectives import last_collective
assert last_collective() == ""
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.barrier()
dist.all_reduce(torch.ones(3, 2))
print(last_collective())
dist.destroy_process_group()
"""


def test_the_flight_recorder_names_the_last_collective() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", _ONE_REDUCTION], capture_output=True, text=True, check=False
    )
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == "collective 2, gloo:all_reduce of [3, 2], finished\n"
