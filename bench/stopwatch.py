"""What the stopwatch of `scaling_report measure` costs a step, by two ways.

    python -m bench.stopwatch

Its own time: a step of an engine and a task that do nothing, under the stopwatch and without, added to a step
of a real model. And the whole effect: one run of lbtrain's loop, whose steps are under the stopwatch in the
order yes, no, no, yes; a round is the median over 32 pairs of neighbouring steps. Takes under two minutes.
Writes results/stopwatch.csv.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bench import parser, typed
from bench.peers import Job
from bench.rows import Row, paired, write
from bench.turns import ROUNDS, recipe_for
from lbtrain.engines import Engine
from lbtrain.launch.world import leave_process_group
from lbtrain.run import run
from lbtrain.tasks import Task
from tools.scaling_report.measuring.stopwatch import Stopwatch, TimedTask

PAIRS = 32  # of steps a round
JOB = Job("cifar_resnet20", micro_batch_size=32, image_size=32, steps=2 * PAIRS)
IDLE_STEPS, IDLE_RUNS = 100, 20


class Idle:
    """An engine and a task whose steps cost nothing: what is left is the stopwatch."""

    rank, world_size, device, accumulation = 0, 1, torch.device("cpu"), 1

    def __init__(self) -> None:
        self.model = nn.Identity()

    def batches(self) -> Iterator[torch.Tensor]:
        return itertools.repeat(torch.zeros(1))

    def backward(self, loss: torch.Tensor) -> None: ...

    def step(self, lr: float) -> bool:
        return True


def idle_seconds(task: Any, engine: Any) -> float:
    """Of one step, in the quickest of many short runs: the others met another process."""
    batches, runs = task.batches(), []
    for _ in range(IDLE_RUNS):
        began = time.perf_counter()
        for _ in range(IDLE_STEPS):
            engine.backward(engine.model(next(batches)))
            engine.step(0.1)
        runs.append(time.perf_counter() - began)
    return min(runs) / IDLE_STEPS


def own_seconds(folder: Path) -> float:
    """What the stopwatch does in one step."""
    idle = cast(Any, Idle())
    bare = idle_seconds(idle, idle)
    watch = Stopwatch(idle, folder, 10**9, profile=False)
    return idle_seconds(TimedTask(idle, watch), watch) - bare


class InTurns:
    """An engine that is under the stopwatch in the first and the last of every four steps."""

    def __init__(self, engine: Engine, folder: Path):
        self._engine, self._folder, self._number = engine, folder, 0
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def _timed(self) -> bool:
        return self._number % 4 in (0, 3)

    def _begin(self) -> None:
        self._current = (
            Stopwatch(self._engine, self._folder, 10**9, profile=False) if self._timed else self._engine
        )
        self._began = time.perf_counter()

    def backward(self, loss: torch.Tensor) -> None:
        self._current.backward(loss)

    def step(self, lr: float) -> bool:
        applied = self._current.step(lr)
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[self._timed].append(time.perf_counter() - self._began)
        if isinstance(self._current, Stopwatch):
            self._current.close()
        self._number += 1
        self._begin()
        return applied


def measure(rounds: int, command: str) -> list[Row]:
    turns: list[InTurns] = []

    def put_between(task: Task, engine: Engine) -> tuple[Task, Any]:
        turns.append(InTurns(engine, Path(folder)))
        return task, turns[0]

    with tempfile.TemporaryDirectory() as folder:
        own = [own_seconds(Path(folder)) for _ in range(rounds)]
        run(
            recipe_for(JOB, "ddp", rounds).vary(run_dir=f"{folder}/run"),
            "stopwatch",
            on_screen=False,
            wrappers=put_between,
        )
    leave_process_group()
    # The first round warms up.
    timed, bare = (in_rounds(turns[0].seconds[kind][PAIRS:], rounds) for kind in (True, False))
    steps = [statistics.median(each) for each in bare]
    ratios = [
        statistics.median(a / b for a, b in zip(*each, strict=True)) for each in zip(timed, bare, strict=True)
    ]
    case = (
        f"step of {JOB.model}, {JOB.image_size}x{JOB.image_size}, batch {JOB.micro_batch_size}, one process"
    )
    added, turned = (
        [step + more for step, more in zip(steps, own, strict=True)],
        [step * ratio for step, ratio in zip(steps, ratios, strict=True)],
    )
    return [
        _row(f"the stopwatch's own time, added to a {case}", "the step alone", added, steps, command),
        _row(case, "the same run without it", turned, steps, command),
    ]


def in_rounds(seconds: list[float], rounds: int) -> list[list[float]]:
    return [seconds[number * PAIRS : (number + 1) * PAIRS] for number in range(rounds)]


def _row(case: str, peer_name: str, with_it: list[float], without: list[float], command: str) -> Row:
    ours, peer = ([1000 * second for second in seconds] for seconds in (with_it, without))
    return paired("stopwatch", case, peer_name, ours, peer, unit="ms", target="<=1.01", command=command)


if __name__ == "__main__":
    flags = parser("python -m bench.stopwatch", __doc__, rounds=ROUNDS)
    options = flags.parse_args()
    write(measure(options.rounds, typed(flags, options)), "stopwatch")
