"""What a sweep of the landscape asks for: goals that a run reaches, and the batch sizes and rates to try."""

from dataclasses import dataclass
from typing import Literal

from .runs import Run

LOG_EXAMPLES = 256
"""Over about so many examples a training loss is averaged."""
FEWEST_SIZES = 3
"""Batch sizes that reach a goal, of which a curve is made."""


@dataclass(frozen=True)
class Goal:
    """A training loss, averaged over about `LOG_EXAMPLES` examples, or a top-1 error in percent."""

    metric: Literal["loss", "top1_error"]
    value: float

    def __str__(self) -> str:
        return (
            f"a training loss of {self.value:g}"
            if self.metric == "loss"
            else f"a top-1 error of {self.value:g} %"
        )

    def steps(self, run: Run) -> float | None:
        """The steps of `run` until it was reached; None if it was not.

        A loss is reached in the middle of the first logged stretch whose average is low enough, an error on
        the line between the first evaluation that is low enough and the one before.
        """
        if self.metric == "loss":
            return steps_to(run, self.value)
        before, error_before = 0, 0.0
        for row in run.rows("eval"):
            step, error = int(row["step"]), float(row[self.metric])
            if error <= self.value:
                rest = (error_before - self.value) / (error_before - error) if before else 1.0
                return before + rest * (step - before)
            before, error_before = step, error
        return None


@dataclass(frozen=True)
class Target:
    """What is measured: the steps to each of `goals`, which are of one metric. A run lasts `epochs` or
    `least_steps`, whichever is longer, or until an evaluation is at the lowest error.
    """

    batch_sizes: tuple[int, ...]
    rates: tuple[float, ...]
    """Factors on the peak rate that the recipe has at its own batch, scaled with the square root of the
    batch.
    """
    goals: tuple[Goal, ...]
    epochs: float
    least_steps: int


def steps_to(run: Run, loss: float) -> float | None:
    """The middle of the first logged stretch whose average training loss is low enough; None if none is."""
    before = 0
    for row in run.rows("train"):
        if row["loss"] <= loss:
            return (before + int(row["step"])) / 2
        before = int(row["step"])
    return None
