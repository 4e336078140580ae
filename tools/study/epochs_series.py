"""The scores of an arm at one batch size over runs of several lengths, from published or own sweeps, and the
epochs to a score between them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.recipe.durations import Duration
from lbtrain.runs.files import read_object

from .arm import interval_of
from .recorded_points import value_in


@dataclass(frozen=True)
class Trained:
    """The runs of one arm at one batch size and one duration."""

    epochs: float
    steps: int
    mean: float
    std: float
    n: int
    settings: Mapping[str, str]

    @property
    def error(self) -> float | None:
        """Half the 95% interval of the mean; None where the spread is unknown."""
        return interval_of((self.std, self.n))


@dataclass(frozen=True)
class Needed:
    """The epochs to a score, or a ratio of two of them, with a 95% interval: its ends are 0 and infinite
    where no duration bounds it, and None where the spread of a mean is unknown.
    """

    value: float
    low: float | None
    high: float | None

    def over(self, other: "Needed") -> "Needed":
        """The ratio, with the interval of Zou & Donner 2008 for a difference of logarithms."""
        ratio = self.value / other.value
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Needed(ratio, None, None)
        down = math.hypot(_log(self.value, self.low), _log(other.high, other.value))
        up = math.hypot(_log(self.high, self.value), _log(other.value, other.low))
        return Needed(ratio, ratio * math.exp(-down), ratio * math.exp(up))

    def interval(self, digits: int) -> str:
        """To stand behind the value; empty where it is unknown."""
        if self.low is None or self.high is None:
            return ""
        low, high = (f"{end:,.{digits}f}" for end in (self.low, self.high))
        if math.isinf(self.high):
            return f" (95%: above {low})" if self.low else " (without bounds)"
        return f" (95%: {low} to {high})" if self.low else f" (95%: below {high})"


def _log(larger: float, smaller: float) -> float:
    """Of their ratio."""
    return math.log(larger / smaller) if smaller and math.isfinite(larger) else math.inf


@dataclass(frozen=True)
class Series:
    """One arm at one batch size over several durations, the shortest first."""

    arm: str
    batch_size: int
    trained: tuple[Trained, ...]

    @property
    def name(self) -> str:
        return f"{self.arm}, batch {self.batch_size:,}"

    @cached_property
    def falling(self) -> bool:
        """Whether longer runs have a lower score, as errors have."""
        return self.trained[-1].mean < self.trained[0].mean

    def needed(self, score: float) -> Needed | None:
        """None where no two durations have the score between them."""
        if (middle := self._crossing(score, 0)) is None:
            return None
        if any(each.error is None for each in self.trained):
            return Needed(middle, None, None)
        sign = -1 if self.falling else 1
        sooner, later = self._crossing(score, sign), self._crossing(score, -sign)
        return Needed(middle, sooner or 0.0, later or math.inf)

    def _crossing(self, score: float, ends: int) -> float | None:
        """Where the means (`ends` 0) or the upper (1) or lower (-1) ends of their intervals first have the
        score.
        """
        points = [(math.log(each.epochs), each.mean + ends * (each.error or 0)) for each in self.trained]
        for (before, left), (after, right) in itertools.pairwise(points):
            if left != right and min(left, right) <= score <= max(left, right):
                return math.exp(before + (after - before) * (left - score) / (left - right))
        return None

    def outside(self, score: float) -> str:
        """What is known where no two durations have the score between them."""
        first, last = self.trained[0], self.trained[-1]
        reached = first.mean <= score if self.falling else first.mean >= score
        return f"{first.epochs:g} or less" if reached else f"more than {last.epochs:g}"

    def steps(self, epochs: float) -> float:
        longest = self.trained[-1]
        return epochs * longest.steps / longest.epochs


def read_series(paths: Sequence[Path]) -> tuple[list[Series], str]:
    """What is in sweep.json files (or the --out folders of sweeps), and what their scores are. Raises
    RecipeError where a file is none, and where two are scored by different metrics.
    """
    found: dict[tuple[str, int], list[Trained]] = {}
    labels = {}
    for path in paths:
        rows = _rows_of(path)
        for row in rows:
            labels[row["label"]] = path
            if row["mean"] is not None and not row["diverged"]:
                key = row["arm"], row["batch_size"]
                found.setdefault(key, []).append(_trained(path, row, rows))
    if len(labels) > 1:
        said = ", ".join(f"{path}: {label}" for label, path in labels.items())
        raise RecipeError(f"the sweeps are scored by different metrics ({said}): read each kind by itself")
    series = []
    for (arm, batch_size), trained in found.items():
        trained.sort(key=lambda each: each.epochs)
        epochs = [each.epochs for each in trained]
        if len(set(epochs)) < len(epochs):
            raise RecipeError(
                f"{arm} at batch size {batch_size:,} is in two sweeps of one duration: name one"
            )
        series.append(Series(arm, batch_size, tuple(trained)))
    return sorted(_without_copies(series), key=lambda each: each.batch_size), next(iter(labels), "")


def _rows_of(path: Path) -> list[dict[str, Any]]:
    file = path / "sweep.json" if path.is_dir() else path
    try:
        rows = read_object(file, {"rows": list})["rows"]
        needed = {"arm", "batch_size", "steps", "mean", "std", "n", "diverged"}
        if not all(needed <= row.keys() for row in rows):
            raise ValueError("its rows are not those of a sweep")
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"{file} is no result of a sweep ({error}): name sweep.json files, or --out folders of sweeps"
        ) from None
    return [{"label": "top-1 error", **row} for row in rows]


def _trained(path: Path, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Trained:
    """Rows of earlier versions do not have their settings; they last as long as the others of their sweep."""
    spoken = [each["settings"] for each in ([row] if "settings" in row else rows) if "settings" in each]
    durations = {settings.get("duration", f"{Recipe().duration}") for settings in spoken}
    length = Duration.parse(durations.pop()) if len(durations) == 1 else None
    if length is None or length.unit != "ep":
        raise RecipeError(
            f"{path} does not say how many epochs {row['arm']} has at batch size {row['batch_size']:,}: "
            "repeat the sweep with a duration in epochs, such as duration=16ep"
        )
    settings = row.get("settings", {})
    return Trained(float(length.value), row["steps"], row["mean"], row["std"], row["n"], settings)


def _without_copies(series: Sequence[Series]) -> list[Series]:
    """Arms that are the same runs, as the three rules are at the base batch, once, with the last name."""
    kept = {}
    for each in series:
        scores = tuple((run.epochs, run.mean, run.std) for run in each.trained)
        kept[each.batch_size, scores] = each
    return list(kept.values())


def changes(series: Series) -> list[str]:
    """What else than its length is not the same in all runs of a series, as far as they say it."""
    settings = [run.settings for run in series.trained if run.settings]
    keys = sorted(set().union(*settings) - {"duration"})
    found = []
    for key in keys:
        values = dict.fromkeys(value_in(each, key) for each in settings)
        if len(values) > 1:
            found.append(f"{series.name}: {key} is {' and '.join(values)}, by duration")
    return found
