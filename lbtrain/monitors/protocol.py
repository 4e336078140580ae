"""What the loop shows of a run to whatever measures it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lbtrain.plan.batching import Phase
from lbtrain.runs.progress import Progress
from lbtrain.runs.rows import Row
from lbtrain.tasks import Losses


@dataclass(frozen=True)
class MicroStep:
    """A micro-batch that has gone forward; its backward pass comes next."""

    batch: Any
    losses: Losses
    start: int
    """Examples seen before the step that it belongs to."""
    phase: Phase


@dataclass(frozen=True)
class StepResult:
    """A finished step with learning rate `lr` and the batch split of `phase`, and the position of the run
    after it.
    """

    progress: Progress
    phase: Phase
    lr: float


class Monitor:
    """Measures a run and changes nothing in it. Every rank has it and calls it at the same points, so what
    gives rows may be collective.

    A subclass overrides the points that it needs. In the first two nothing may wait for the device.
    """

    def before_backward(self, seen: MicroStep) -> None:
        """Before each backward pass of a step."""

    def before_update(self) -> None:
        """Weights and gradients are those of the coming update, and not yet clipped."""

    def after_step(self, done: StepResult) -> Iterable[Row]:
        """After every step."""
        return ()

    def at_log(self, done: StepResult) -> Iterable[Row]:
        """After a step of which a row is logged, once `after_step` has been asked."""
        return ()

    def after_evaluation(self, done: StepResult) -> Iterable[Row]:
        """After a step that was followed by an evaluation, behind the row of that."""
        return ()
