"""What would count as reproduced where a source prints a figure, or an order, without numbers: data of a
recipe by which `lbtrain study` and `lbtrain study tune` grade its runs.

As an expectation, a finding is no value of the experiment, and belongs to the recipe as it is written.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """The primary metric less that of `reference` (FOLDER/NAME, an arm of the same study), in points, is at
    most (`<=0.5`), above (`>0.5`) or within (`+-0.5`) a bound. `source`: paper and figure.
    """

    reference: str
    bound: str
    source: str

    def __str__(self) -> str:
        return f"{self.bound} points against {self.reference}: {self.source}"

    def outcome(self, gap: float, error: float) -> str:
        """Of a gap with its interval."""
        return _outcome(self.bound, gap, error)


@dataclass(frozen=True)
class BestBatch:
    """The best batch size, each with its own best rate, lies between `low` and `high`; with
    `key`="bn_batch_size", the best ghost batch size. `source`: paper and figure.
    """

    low: int
    high: int
    source: str
    key: str = "batch_size"

    def __str__(self) -> str:
        return f"best at {self.key} {self.low:,} to {self.high:,}: {self.source}"

    def names(self, size: int) -> bool:
        """Whether it is one of the best."""
        return self.low <= size <= self.high

    @staticmethod
    def outcome(gap: float, error: float) -> str:
        """`gap`: what the best of these sizes is worse than the best of the others, with its interval."""
        return _outcome("<=0.0", gap, error)


Finding = Difference | BestBatch


def _outcome(bound: str, gap: float, error: float) -> str:
    return {"held": "reproduced", "not held": "not reproduced"}.get(held(bound, gap, error), "open")


def held(bound: str, gap: float, error: float) -> str:
    """Whether a gap is `<=POINTS`, `>POINTS` or `+-POINTS`: held or not held where the whole interval says
    so, else open.
    """
    points = float(bound.lstrip("<=>+-"))
    if bound.startswith(">"):
        return {"held": "not held", "not held": "held"}.get(held(f"<={points}", gap, error), "open")
    low, high = (-points if bound.startswith("+-") else -math.inf), points
    if low <= gap - error and gap + error <= high:
        return "held"
    return "not held" if gap - error > high or gap + error < low else "open"
