"""The stopwatch: what it writes, what it costs, and that a GPU's events go through the same code as a
processor's clock.
"""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.stopwatch import own_seconds
from lbtrain.monitors.clock import Clock, HostClock, StreamClock
from tools.scaling_report.measuring.stopwatch import Stopwatch, TimedTask
from tools.scaling_report.measuring.timings import read_ranks


class _IdleEngine:
    """An engine whose step costs nothing, so that what is left is the stopwatch."""

    rank, world_size, device, accumulation = 0, 1, torch.device("cpu"), 1

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model or nn.Identity()

    def backward(self, loss: torch.Tensor) -> None:
        if loss.requires_grad:
            loss.backward()

    def step(self, lr: float) -> bool:
        return True


def _run(engine: object, steps: int, *, image: torch.Tensor | None = None) -> None:
    image = torch.zeros(1) if image is None else image
    for _ in range(steps):
        engine.backward(engine.model(image).sum())
        engine.step(0.1)


def test_the_stopwatch_costs_under_one_percent_of_a_ten_millisecond_step(tmp_path: Path) -> None:
    assert 0 < own_seconds(tmp_path) < 0.01 * 0.010


def test_the_stopwatch_writes_every_step_and_ends_the_run(tmp_path: Path) -> None:
    watch = Stopwatch(_IdleEngine(), tmp_path, 4, profile=False)
    watch.accumulation = 2
    assert watch.accumulation == 2
    with pytest.raises(SystemExit) as exit_:
        _run(watch, 10)
    assert exit_.value.code == 0
    (rank,) = read_ranks(tmp_path, 1, warmup=0)
    assert len(rank.steps) == 3  # intervals between four step ends
    assert all(step["step_s"] >= step["own_s"] >= 0 for step in rank.steps)


class _Stream:
    """A stand-in for torch.cuda: a stream that reaches each event 2 ms after the one before, and tells only
    once synchronized.
    """

    def __init__(self) -> None:
        self.passed, self.synchronized = itertools.count(), False
        stream = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.place = next(stream.passed)

            def elapsed_time(self, other: "Event") -> float:
                assert stream.synchronized, "an event was read before the stream had passed it"
                return 2.0 * (other.place - self.place)

        self.Event = Event

    def synchronize(self) -> None:
        self.synchronized = True


@pytest.mark.parametrize("clock", [HostClock(), StreamClock(_Stream())], ids=["host", "stream"])
def test_a_profiled_run_finds_the_buckets_on_either_clock(clock: Clock, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 1))
    with pytest.raises(SystemExit):
        _run(
            Stopwatch(_IdleEngine(model), tmp_path, 4, profile=True, clock=clock),
            10,
            image=torch.ones(2, 1000),
        )
    written = json.loads((tmp_path / "rank0.json").read_text())
    assert sum(written["buckets"]["num_bytes"]) == 4 * sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert written["buckets"]["ready"][-1] == pytest.approx(1)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_the_streams_times_are_in_seconds_and_add_up(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        _run(Stopwatch(_IdleEngine(), tmp_path, 3, profile=False, clock=StreamClock(_Stream())), 10)
    (rank,) = read_ranks(tmp_path, 1, warmup=0)
    # Three events a step: forward begins, backward has ended, the step has ended.
    assert rank.steps == [{"step_s": 0.006, "own_s": 0.002, "optimizer_s": 0.002, "wait_s": 0.0}] * 2


@pytest.mark.parametrize(
    ("clock", "least", "most"),
    [(HostClock(), 0.0, 0.2), (StreamClock(_Stream()), 0.0039, 0.0041)],
    ids=["host", "stream"],
)
def test_waiting_between_the_passes_of_a_step_is_not_computing(
    clock: Clock, least: float, most: float, tmp_path: Path
) -> None:
    """The stream computes two passes of 2 ms, whatever the program waits meanwhile."""

    class _SlowTask:
        def batches(self) -> Iterator[torch.Tensor]:
            while True:
                time.sleep(0.2)  # more than a busy machine makes of a pass
                yield torch.zeros(1)

    watch = Stopwatch(_IdleEngine(), tmp_path, 3, profile=False, clock=clock)
    batches = TimedTask(_SlowTask(), watch).batches()
    with pytest.raises(SystemExit):
        for _ in range(3):
            for _ in range(2):
                watch.backward(watch.model(next(batches)))
            watch.step(0.1)
    (rank,) = read_ranks(tmp_path, 1, warmup=0)
    assert all(step["wait_s"] >= 0.4 and least < step["own_s"] < most for step in rank.steps)


def test_the_cuda_clock_is_this_one() -> None:
    """The names that the clock uses are torch.cuda's."""
    assert {"Event", "synchronize"} <= set(dir(torch.cuda))
    assert isinstance(SimpleNamespace(clock=StreamClock(torch.cuda)).clock, StreamClock)
