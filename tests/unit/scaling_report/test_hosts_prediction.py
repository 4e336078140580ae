"""The bench of the shaped hosts: which of a run's steps count for which rate."""

from pathlib import Path

import pytest
import torch

from bench.hosts_prediction import run_steps, turns_at
from bench.stopwatch import Idle
from lab import shaped, sleeping
from lbtrain.monitors.clock import HostClock
from tools.scaling_report.measuring.stopwatch import Stopwatch
from tools.scaling_report.measuring.timings import read_ranks


class _ByRate(HostClock):
    """Time passes by the rate that the host was last limited to."""

    def __init__(self) -> None:
        self.now, self.a_step = 0.0, 0.0

    def stamp(self) -> float:
        return self.now

    def limit(self, rate: str) -> None:
        self.a_step = {"1gbit": 1.0, "500mbit": 2.0, "250mbit": 4.0}[rate]


def test_a_turn_holds_steps_of_its_own_rate_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = _ByRate()
    monkeypatch.setattr(shaped, "shape", clock.limit)
    monkeypatch.setattr(sleeping, "NUM_BLOCKS", 0)
    monkeypatch.setenv("LBTRAIN_NAMESPACE_HOST", "1")
    engine = Idle()
    engine.model = shaped.ShapedNet(2, 3)
    # `measure` runs one step more than it is asked to time.
    watch = Stopwatch(engine, tmp_path, run_steps() + 1, profile=False, clock=clock)
    with pytest.raises(SystemExit):
        while True:
            watch.backward(engine.model(torch.zeros(1, 3, 2, 2)))
            clock.now += clock.a_step
            watch.step(0.1)
    ranks = read_ranks(tmp_path, 1, warmup=0)
    for rate, seconds in zip(shaped.RATES, (1.0, 2.0, 4.0), strict=True):
        found = [[step["step_s"] for step in rank.steps] for (rank,) in turns_at(rate, ranks)]
        assert found == [[seconds] * (shaped.STEPS_A_TURN - shaped.SETTLING_STEPS)] * shaped.TURNS
