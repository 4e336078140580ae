"""What a run measures of itself while it trains, one file each. A new monitor takes its place in the list
below; the loop stays as it is.
"""

from collections.abc import Iterable

import torch

from lbtrain.engines.protocol import Engine
from lbtrain.monitors.distance import DistanceMonitor
from lbtrain.monitors.log_window import LogWindow, replaced_over_ranks
from lbtrain.monitors.noise import NoiseMonitor
from lbtrain.monitors.protocol import MicroStep, Monitor, StepResult
from lbtrain.monitors.trust import TrustMonitor
from lbtrain.plan.plan import Plan
from lbtrain.runs.records import Pictures, Records
from lbtrain.runs.rows import EvalRow, Row
from lbtrain.tasks import Task

__all__ = ["MicroStep", "Monitor", "Monitors", "NoiseMonitor", "StepResult", "replaced_over_ranks"]


class Monitors:
    """All monitors of a run as the loop sees them. What they measure goes to `records`."""

    def __init__(
        self,
        plan: Plan,
        task: Task,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        records: Records,
        *,
        initial_weights: str = "",
    ):
        """`initial_weights`: the digest of those that were loaded when the run started."""
        window = LogWindow(plan, engine, optimizer)
        self.waiting, self.paused = window.waiting, window.paused
        noise = NoiseMonitor(plan, task, engine, optimizer, earlier=records.written("noise"))
        # In the order of their rows.
        self._monitors: list[Monitor] = [
            noise,
            window,
            DistanceMonitor(plan.recipe, engine, initial_weights),
            TrustMonitor(optimizer),
        ]
        self._records = records

    def before_backward(self, seen: MicroStep) -> None:
        for monitor in self._monitors:
            monitor.before_backward(seen)

    def before_update(self) -> None:
        for monitor in self._monitors:
            monitor.before_update()

    def after_step(self, done: StepResult, *, logged: bool) -> None:
        self._write(monitor.after_step(done) for monitor in self._monitors)
        if logged:
            self._write(monitor.at_log(done) for monitor in self._monitors)

    def after_evaluation(self, done: StepResult, evaluation: EvalRow, pictures: Pictures) -> None:
        self._records.write(evaluation)
        self._records.write_pictures(pictures, evaluation)
        self._write(monitor.after_evaluation(done) for monitor in self._monitors)

    def _write(self, rows_of_each: Iterable[Iterable[Row]]) -> None:
        for rows in rows_of_each:
            for row in rows:
                self._records.write(row)
