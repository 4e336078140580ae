"""Runs a recipe on this rank with a stopwatch round its engine, for a fixed number of steps. Started by `measure` under a launcher:

    timed_run.py FOLDER STEPS exchange|no-exchange RECIPE key=value ...

Writes FOLDER/rankN.json with the times of every step, then ends the run: no evaluation, no checkpoint. `no-exchange` leaves gradients as
each rank has them, which is how computing alone is measured; the weights of such a run mean nothing.
"""

import dataclasses
import functools
import json
import runpy
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import lbtrain.engines
import lbtrain.tasks
from lbtrain.engines import Engine
from lbtrain.recipe import Recipe
from lbtrain.tasks import Task

# Launchers start this file by its path, on hosts where only lbtrain is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.scaling_report.layers import GradientStamps


class Stopwatch:
    """An engine that times the one it wraps. On a GPU the stamps are events on its stream, so that no step waits for the clock."""

    def __init__(self, engine: Engine, folder: Path, steps: int, *, profile: bool):
        self._engine, self._folder, self._steps, self._profile = engine, folder, steps, profile
        self._stamp: Callable[[], Any] = _gpu_stamp if engine.device.type == "cuda" else time.perf_counter
        self._step: dict[str, Any] = {}
        self._finished: list[dict[str, Any]] = []
        self._stamps: GradientStamps | None = None
        self._buckets: dict[str, Any] | None = None
        self.waited = 0.0
        engine.model.register_forward_pre_hook(self._on_forward)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def accumulation(self) -> int:
        return self._engine.accumulation

    @accumulation.setter
    def accumulation(self, count: int) -> None:
        self._engine.accumulation = count

    def _on_forward(self, *_: object) -> None:
        if not self._engine.model.training or "start" in self._step:
            return
        # The middle step is profiled: the first ones still allocate.
        if self._profile and len(self._finished) == self._steps // 2:
            self._stamps, self._forward_start = GradientStamps(self._engine.model), time.perf_counter()
        self._step["start"] = self._stamp()

    def backward(self, loss: torch.Tensor) -> None:
        if self._stamps:
            forward_end = time.perf_counter()
        self._engine.backward(loss)
        self._step["computed"] = self._stamp()
        if self._stamps:
            buckets = self._stamps.buckets(forward_start=self._forward_start, forward_end=forward_end)
            self._buckets, self._stamps = dataclasses.asdict(buckets), None

    def step(self, lr: float) -> bool:
        applied = self._engine.step(lr)
        self._finished.append(self._step | {"end": self._stamp(), "wait_s": self.waited})
        self._step, self.waited = {}, 0.0
        if len(self._finished) == self._steps:
            self._write()
            raise SystemExit(0)
        return applied

    def _write(self) -> None:
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize()
        steps = [
            {
                "step_s": _seconds(before["end"], now["end"]),
                "own_s": _seconds(now["start"], now["computed"]),
                "optimizer_s": _seconds(now["computed"], now["end"]),
                "wait_s": now["wait_s"],
            }
            for before, now in zip(self._finished, self._finished[1:], strict=False)
        ]
        record = {"rank": self._engine.rank, "host": socket.gethostname(), "steps": steps, "buckets": self._buckets}
        (self._folder / f"rank{self._engine.rank}.json").write_text(json.dumps(record))


def _gpu_stamp() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(before: Any, after: Any) -> float:
    return float(after - before) if isinstance(after, float) else before.elapsed_time(after) / 1000


def time_engines(folder: Path, steps: int, *, exchange: bool) -> None:
    """From here on, engines and tasks that are created in this process are timed."""
    create, create_task = lbtrain.engines.create_engine, lbtrain.tasks.create_task
    watches: list[Stopwatch] = []

    def create_timed(*args: Any) -> Stopwatch:
        watches.append(Stopwatch(create(*args), folder, steps, profile=not exchange))
        return watches[-1]

    def create_timed_task(recipe: Recipe, device: torch.device) -> Task:
        task = create_task(recipe, device)
        task.batches = functools.partial(timed_batches, task.batches)  # type: ignore[method-assign]
        return task

    def timed_batches(batches: Callable[..., Iterator[Any]], **place: int) -> Iterator[Any]:
        source = batches(**place)
        while True:
            before = time.perf_counter()
            batch = next(source)
            for watch in watches:
                watch.waited += time.perf_counter() - before
            yield batch

    lbtrain.engines.create_engine = create_timed  # type: ignore[assignment]
    lbtrain.tasks.create_task = create_timed_task
    if not exchange:
        _switch_off_exchange()


def _switch_off_exchange() -> None:
    """Engines decide with `exchange_in_backward` which backward pass exchanges; here: none."""
    from lbtrain.engines import accelerate, ddp, deepspeed

    decide = ddp.exchange_in_backward

    def never(model: torch.nn.Module, exchange: bool) -> None:
        decide(model, False)

    modules: list[Any] = [accelerate, ddp, deepspeed]
    for module in modules:
        if hasattr(module, "exchange_in_backward"):
            module.exchange_in_backward = never


def main() -> None:
    # deepspeed puts --local_rank=N before the script's own words.
    folder, steps, exchange, recipe, *overrides = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    time_engines(Path(folder), int(steps), exchange=exchange == "exchange")
    sys.argv = [recipe, *overrides]
    sys.path.insert(0, str(Path(recipe).parent))
    runpy.run_path(recipe, run_name="__main__")


if __name__ == "__main__":
    main()
