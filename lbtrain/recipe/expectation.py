"""The result that a recipe is held against, as data, and what a finished run says about it.

An expectation is no value of the experiment: it changes nothing in a run and forbids no resume. It belongs to
the recipe as it is written: a run whose experiment was changed on the command line, the data set included, is
not comparable.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["met", "not met", "not comparable"]


@dataclass(frozen=True)
class Expectation:
    """`metric` is `value`, give or take `tolerance`, in the metric's unit (errors and AP: percent).

    It is the median of the last `evaluations`, as many as the source says, one after each of the last epochs
    where that is more than one (Goyal et al. 2017, section 5.1: five). Both sides count: an arm that is meant
    to lose accuracy and does not is not reproduced either. `source`: paper and table. `changed`: what the
    command line changed in the experiment, in words.
    """

    metric: str
    value: float
    tolerance: float
    source: str
    evaluations: int = 1
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.metric} {self.value:g} ± {self.tolerance:g} ({self.source})"

    def compare(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The part of summary.json: the numbers, the outcome, and why a run is not comparable. `rows`: the
        run's evaluations, in order.
        """
        value = statistics.median(row[self.metric] for row in rows[-self.evaluations :])
        near = abs(value - self.value) <= self.tolerance
        reasons = [*self.changed, *self._other_epochs(rows)]
        outcome: Outcome = "not comparable" if reasons else "met" if near else "not met"
        return {
            "metric": self.metric,
            "expected": self.value,
            "tolerance": self.tolerance,
            "measured": value,
            "evaluations": min(self.evaluations, len(rows)),
            "difference": value - self.value,
            "outcome": outcome,
            "reasons": reasons,
            "source": self.source,
        }

    def _other_epochs(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Asked of the rows: what the command line said before a resume stands nowhere else."""
        if self.evaluations == 1:
            return
        found = [int(row["epoch"]) for row in rows[-self.evaluations :]]
        if found != list(range(found[-1] - self.evaluations + 1, found[-1] + 1)):
            yield (
                f"the last evaluations were after epochs {', '.join(map(str, found))}, not after each of "
                f"the last {self.evaluations}"
            )


def format_outcome(found: Mapping[str, Any]) -> str:
    """The line that a run ends with."""
    reasons = f": {'; '.join(found['reasons'])}" if found["reasons"] else ""
    return (
        f"expected {found['metric']} {found['expected']:g} ± {found['tolerance']:g} ({found['source']}), "
        f"measured {found['measured']:.2f}: {found['outcome']}{reasons}"
    )
