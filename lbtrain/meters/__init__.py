"""What a run measures of itself while it trains, one file each. A new meter takes its place in the list below; the loop stays as it is."""

from collections.abc import Iterable

import torch

from lbtrain.engines.protocol import Engine
from lbtrain.meters.distance import DistanceMeter
from lbtrain.meters.log_window import LogWindow, replaced_over_ranks
from lbtrain.meters.noise import NoiseMeter
from lbtrain.meters.protocol import Done, Meter, Pass
from lbtrain.meters.trust import TrustMeter
from lbtrain.plan import Plan
from lbtrain.records import Records, Row
from lbtrain.tasks import Task

__all__ = ["Done", "Meter", "Meters", "NoiseMeter", "Pass", "replaced_over_ranks"]


class Meters:
    """All meters of a run as the loop sees them. What they find goes to `records`."""

    def __init__(self, plan: Plan, task: Task, engine: Engine, optimizer: torch.optim.Optimizer, records: Records):
        window = LogWindow(plan, engine, optimizer)
        self.waiting, self.paused = window.waiting, window.paused
        noise = NoiseMeter(plan, task, engine, optimizer, earlier=records.written("noise"))
        # In the order of their rows.
        self._meters: list[Meter] = [noise, window, DistanceMeter(task.recipe, engine), TrustMeter(optimizer)]
        self._records = records

    def before_backward(self, seen: Pass) -> None:
        for meter in self._meters:
            meter.before_backward(seen)

    def before_update(self) -> None:
        for meter in self._meters:
            meter.before_update()

    def after_step(self, done: Done, *, logged: bool) -> None:
        self._write(meter.after_step(done) for meter in self._meters)
        if logged:
            self._write(meter.at_log(done) for meter in self._meters)

    def after_evaluation(self, done: Done) -> None:
        self._write(meter.after_evaluation(done) for meter in self._meters)

    def _write(self, found: Iterable[Iterable[Row]]) -> None:
        for rows in found:
            for row in rows:
                self._records.write(row)
