"""A stopwatch round an engine and its task: when each step computes, updates and waits for data, without a
step waiting for the clock.
"""

import dataclasses
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lbtrain.engines import Engine
from lbtrain.monitors.clock import Clock, clock_for
from lbtrain.tasks import Task

from ..model.comm import Buckets, fill_buckets


class GradientStamps:
    """Until `end`, notes when each parameter's gradient is complete. Not for a step that exchanges
    gradients.
    """

    def __init__(self, model: nn.Module, clock: Clock):
        self._clock = clock
        self._stamps: list[tuple[float, Any]] = []
        self._hooks = [
            each.register_post_accumulate_grad_hook(self._stamp)
            for each in model.parameters()
            if each.requires_grad
        ]

    def _stamp(self, parameter: torch.Tensor) -> None:
        self._stamps.append((float(parameter.numel() * parameter.element_size()), self._clock.stamp()))

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def buckets(self, forward_start: Any, forward_end: Any) -> Buckets:
        """From the stamps of one backward pass, which began at `forward_end`; the clock must have settled."""
        seconds = self._clock.seconds
        times = [forward_end, *(when for _, when in self._stamps)]
        layers = [
            (num_bytes, seconds(before, after))
            for (num_bytes, after), before in zip(self._stamps, times, strict=False)
        ]
        return fill_buckets(
            layers[::-1],
            forward_share=seconds(forward_start, forward_end) / seconds(forward_start, times[-1]),
        )


class Stopwatch:
    """An engine that times the one it wraps for a number of steps, then writes FOLDER/rankN.json and ends the
    run.
    """

    def __init__(
        self, engine: Engine, folder: Path, steps: int, *, profile: bool, clock: Clock | None = None
    ):
        self._engine, self._folder, self._steps, self._profile = engine, folder, steps, profile
        self._clock = clock or clock_for(engine.device)
        self._passes: list[tuple[Any, Any]] = []
        self._start: Any = None
        self._finished: list[dict[str, Any]] = []
        self._gradients: GradientStamps | None = None
        self._forward: tuple[Any, Any] | None = None
        self._wait = 0.0
        self._hook = engine.model.register_forward_pre_hook(self._on_forward)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def accumulation(self) -> int:
        return self._engine.accumulation

    @accumulation.setter
    def accumulation(self, count: int) -> None:
        self._engine.accumulation = count

    def close(self) -> None:
        """Take the stopwatch off the model."""
        self._hook.remove()

    def waited(self, seconds: float) -> None:
        """The task was that long in the loader."""
        self._wait += seconds

    def _on_forward(self, *_: object) -> None:
        if not self._engine.model.training or self._start is not None:
            return
        # The middle step is profiled: the first ones still allocate.
        if self._profile and self._gradients is None and len(self._finished) == self._steps // 2:
            self._gradients = GradientStamps(self._engine.model, self._clock)
        self._start = self._clock.stamp()

    def backward(self, loss: torch.Tensor) -> None:
        if self._gradients and not self._forward:
            self._forward = self._start, self._clock.stamp()
        self._engine.backward(loss)
        self._passes.append((self._start, self._clock.stamp()))
        self._start = None
        if self._gradients:
            self._gradients.end()

    def step(self, lr: float) -> bool:
        applied = self._engine.step(lr)
        self._finished.append({"passes": self._passes, "end": self._clock.stamp(), "wait_s": self._wait})
        self._passes, self._wait = [], 0.0
        if len(self._finished) == self._steps:
            self.close()
            self._write()
            raise SystemExit(0)
        return applied

    def _write(self) -> None:
        self._clock.settle()
        buckets = self._gradients.buckets(*self._forward) if self._gradients and self._forward else None
        pairs = zip(self._finished, self._finished[1:], strict=False)
        record = {
            "rank": self._engine.rank,
            "host": socket.gethostname(),
            "steps": [self._times(before, now) for before, now in pairs],
            "buckets": buckets and dataclasses.asdict(buckets),
        }
        (self._folder / f"rank{self._engine.rank}.json").write_text(json.dumps(record), encoding="utf-8")

    def _times(self, before: dict[str, Any], now: dict[str, Any]) -> dict[str, float]:
        seconds = self._clock.seconds
        return {
            "step_s": seconds(before["end"], now["end"]),
            # What the program waits for the loader between two passes, a device may spend on queued work.
            "own_s": sum(seconds(start, end) for start, end in now["passes"]),
            "optimizer_s": seconds(now["passes"][-1][1], now["end"]),
            "wait_s": now["wait_s"],
        }


class TimedTask:
    """The task it wraps, whose batches tell the stopwatch how long each was waited for."""

    def __init__(self, task: Task, watch: Stopwatch):
        self._task, self._watch = task, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batches(self, **place: int) -> Iterator[Any]:
        source = self._task.batches(**place)
        while True:
            before = time.perf_counter()
            batch = next(source)
            self._watch.waited(time.perf_counter() - before)
            yield batch
