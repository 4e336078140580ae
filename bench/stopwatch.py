"""What the stopwatch of `scaling_report measure` costs: one run of lbtrain's loop, timed and untimed in turns.

    python -m bench.stopwatch

Writes results/stopwatch.csv. A turn is one of 21 blocks of steps with the stopwatch round the engine, followed by one without.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.peers import Job
from bench.rows import Row, paired, write
from bench.turns import ROUNDS, recipe_for
from lbtrain.cluster.launch import leave_process_group
from lbtrain.engines import Engine
from lbtrain.main import run
from lbtrain.tasks import Task
from tools.scaling_report.stopwatch import Stopwatch

JOB = Job("cifar_resnet20", micro_batch_size=32, image_size=32, steps=10)


class InTurns:
    """An engine that is under the stopwatch in every second turn."""

    def __init__(self, engine: Engine, folder: Path):
        self._engine, self._folder, self._current = engine, folder, engine
        self.seconds: dict[str, list[float]] = {"timed": [], "bare": []}
        self._steps, self._began = 0, time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def backward(self, loss: torch.Tensor) -> None:
        self._current.backward(loss)

    def step(self, lr: float) -> bool:
        applied = self._current.step(lr)
        self._steps += 1
        if self._steps % JOB.steps == 0:
            self._change_turns()
        return applied

    def _change_turns(self) -> None:
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize()
        timed = isinstance(self._current, Stopwatch)
        self.seconds["timed" if timed else "bare"].append(time.perf_counter() - self._began)
        if isinstance(self._current, Stopwatch):
            self._current.close()
            self._current = self._engine
        else:
            self._current = Stopwatch(self._engine, self._folder, 10**9, profile=False)
        self._began = time.perf_counter()


def measure(rounds: int) -> Row:
    turns: list[InTurns] = []

    def put_between(task: Task, engine: Engine) -> tuple[Task, Any]:
        turns.append(InTurns(engine, Path(folder)))
        return task, turns[0]

    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_for(JOB, "ddp", 2 * rounds + 1).vary(run_dir=f"{folder}/run")
        run(recipe, "stopwatch", on_screen=False, instruments=put_between)
    leave_process_group()
    # The first turn of each kind warms up.
    timed, bare = ([1000 * seconds / JOB.steps for seconds in turns[0].seconds[kind][1 : rounds + 1]] for kind in ("timed", "bare"))
    case = f"step of {JOB.model}, {JOB.image_size}x{JOB.image_size}, batch {JOB.micro_batch_size}, one process"
    command = "python -m bench.stopwatch"
    return paired("stopwatch", case, "the same run without it", timed, bare, unit="ms", target="<=1.01", command=command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each kind (default {ROUNDS})")
    write([measure(parser.parse_args().rounds)], "stopwatch")
