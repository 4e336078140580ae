"""What it costs to find out which rank is the slowest.

    python -m bench.slowest_rank

Two gloo ranks of one thread train ResNet-8 on 32 x 32 images in lbtrain's loop, which logs a row every 10
steps (the default of `log_every`). Rows with and without the slowest rank are logged in the order yes, no,
no, yes, and a round is four of them. Processor time of rank 0, because the wall time of two ranks is that of
the machine's other work too. Writes results/slowest_rank.csv.
"""

import time
from unittest import mock

import torch
from torch import Tensor

from bench import parser, typed
from bench.peers import Job
from bench.rows import Row, paired, write
from bench.turns import end_worker, on_ranks, recipe_for, run_dir
from lbtrain.monitors import log_window
from lbtrain.monitors.stragglers import OwnTime, Straggler
from lbtrain.run import run

ROUNDS = 12
JOB = Job("cifar_resnet8", micro_batch_size=32, image_size=32, steps=10)


class InTurns(OwnTime):
    """Does nothing for the second and the third of every four rows; `seconds` of each row, by whether it
    did.
    """

    seconds: dict[bool, list[float]]

    def __init__(self, device: torch.device):
        self._number, self._began = 0, time.process_time()
        type(self).seconds = {True: [], False: []}
        super().__init__(device)

    @property
    def _on(self) -> bool:
        return self._number % 4 in (0, 3)

    def start(self) -> None:
        if self._on:
            super().start()

    def stop(self) -> None:
        if self._on:
            super().stop()

    def for_rank(self, rank: int, world_size: int) -> Tensor:
        return super().for_rank(rank, world_size) if self._on else torch.zeros(0)

    def slowest(self, seconds: list[float]) -> Straggler | None:
        found = super().slowest(seconds) if self._on else None
        ended = time.process_time()
        self.seconds[self._on].append(ended - self._began)
        self._number, self._began = self._number + 1, ended
        return found


def worker(rounds: int) -> None:
    with run_dir() as folder, mock.patch.object(log_window, "OwnTime", InTurns):
        recipe = recipe_for(JOB, "ddp", 4 * rounds + 3).vary(run_dir=folder)
        run(recipe, "slowest_rank", on_screen=False)
    end_worker([InTurns.seconds[True], InTurns.seconds[False]])


def measure(rounds: int, command: str) -> Row:
    named, bare = (
        [1000 * sum(pair) / (2 * JOB.steps) for pair in zip(seconds[2::2], seconds[3::2], strict=True)]
        for seconds in on_ranks("bench.slowest_rank", str(rounds), ranks=2)  # the first round warms up
    )
    return paired(
        "slowest_rank",
        f"step of {JOB.model}, {JOB.image_size}x{JOB.image_size}, batch 32 a rank, two ranks, a row every 10",
        "without the slowest rank in the rows",
        named,
        bare,
        unit="ms of processor time",
        target="<=1.01",
        command=command,
    )


if __name__ == "__main__":
    flags = parser("python -m bench.slowest_rank", __doc__, rounds=ROUNDS)
    flags.add_argument("--worker", type=int, help="What each of the two ranks is started with.")
    options = flags.parse_args()
    if options.worker:
        worker(options.worker)
    else:
        write([measure(options.rounds, typed(flags, options))], "slowest_rank")
