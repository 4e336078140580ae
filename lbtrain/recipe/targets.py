"""A quality at which a run may end, as MLPerf defines its benchmarks: `top1_accuracy>=75.9`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from lbtrain.errors import RecipeError


@dataclass(frozen=True)
class Target:
    """A bound of a metric of an evaluation, or of an accuracy where the metric is the error (both in
    percent).
    """

    metric: str
    relation: str
    value: Decimal

    @classmethod
    def parse(cls, text: str, name: str = "stop_at") -> Self:
        """Raises RecipeError for anything but a metric, >= or <=, and a decimal number."""
        match = re.fullmatch(r"([a-z][a-z0-9_]*)(>=|<=)([0-9]{1,6}(?:\.[0-9]{1,6})?)", text)
        if not match:
            raise RecipeError(
                f"{name}={text}: a target is a metric, >= or <=, and a number. Write top1_accuracy>=75.9, "
                "for example (in quotes, for the sake of the shell)."
            )
        return cls(match[1], match[2], Decimal(match[3]))

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.value:f}"

    def is_reached(self, metrics: Mapping[str, Any]) -> bool:
        """By the metrics of an evaluation; not by one that lacks the metric (the AP of a class that is not
        there).
        """
        value = metrics.get(self.metric)
        error = metrics.get(self.metric.replace("_accuracy", "_error"))
        if value is None and error is None:
            return False
        found = value if value is not None else 100 - float(error or 0)
        found = round(found, 9)  # as the target is written: 100 * (1 - 7590 / 10_000) is not quite 24.1
        return found >= float(self.value) if self.relation == ">=" else found <= float(self.value)


def all_reached(targets: Iterable[Target], metrics: Mapping[str, Any]) -> bool:
    """Whether there are targets and an evaluation reaches all of them."""
    targets = list(targets)
    return bool(targets) and all(target.is_reached(metrics) for target in targets)
