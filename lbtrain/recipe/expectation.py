"""The result that a recipe is compared with, as data, and what a finished run says about it.

An expectation is no value of the experiment: it changes nothing in a run and forbids no resume. It belongs to
the recipe as it is written: a run whose experiment was changed on the command line, the data set included, is
not comparable.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lbtrain.recipe.targets import Target, all_reached

Outcome = Literal["met", "not met", "not comparable"]


@dataclass(frozen=True)
class Expectation:
    """`metric` is `value`, give or take `tolerance`, in the metric's unit (errors and AP: percent).

    With a `target`, it is the number of epochs after which an evaluation first reaches that (MLPerf's way:
    the mean of the reference's runs; the tolerance covers their range), and `metric` is "epochs". Otherwise
    it is the median of the last `evaluations`, as many as the source says, one after each of the last epochs
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
    target: str = ""
    """Such as top1_accuracy>=75.9; several, with commas, are reached together."""

    def __str__(self) -> str:
        to = f" to {self.target}" if self.target else ""
        return f"{self.metric} {self.value:g} ± {self.tolerance:g}{to} ({self.source})"

    def with_changes(self, reasons: Sequence[str]) -> "Expectation":
        """The same, of a run that these reasons make another experiment."""
        return dataclasses.replace(self, changed=(*self.changed, *reasons))

    def compare(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The part of summary.json: the numbers, the outcome, and why a run is not comparable. `rows`: the
        run's evaluations, in order.
        """
        if not self.target:
            rows = [row for row in rows if self.metric in row]
        value = self._measured(rows)
        near = value is not None and abs(value - self.value) <= self.tolerance
        reasons = [*self.changed, *self._other_epochs(rows)]
        outcome: Outcome = "not comparable" if reasons else "met" if near else "not met"
        return {
            "metric": self.metric,
            "expected": self.value,
            "tolerance": self.tolerance,
            "measured": value,
            "evaluations": min(self.evaluations, len(rows)),
            "difference": None if value is None else value - self.value,
            "outcome": outcome,
            "reasons": reasons,
            "source": self.source,
        } | ({"target": self.target} if self.target else {})

    def _measured(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """None where nothing was evaluated, or the target was not reached."""
        if not self.target:
            scores = [row[self.metric] for row in rows[-self.evaluations :]]
            return statistics.median(scores) if scores else None
        targets = [Target.parse(text, "target") for text in self.target.split(",")]
        return next((float(row["epoch"]) for row in rows if all_reached(targets, row)), None)

    def _other_epochs(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Asked of the rows: what the command line said before a resume stands nowhere else."""
        if not rows:
            yield "no evaluation is recorded" + ("" if self.target else f" that has {self.metric}")
        if self.evaluations == 1 or not rows:
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
    to = f" to {found['target']}" if "target" in found else ""
    nothing = "not reached" if "target" in found else "not measured"
    measured = nothing if found["measured"] is None else f"measured {found['measured']:.2f}"
    return (
        f"expected {found['metric']} {found['expected']:g} ± {found['tolerance']:g}{to} ({found['source']}), "
        f"{measured}: {found['outcome']}{reasons}"
    )
