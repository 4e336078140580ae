"""How good predictions of efficiency are: error, skill against a constant, and coverage of the intervals."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.published_flags import Row


@dataclass(frozen=True, slots=True)
class Line:
    """A prediction beside what was published, as a row of results/scaling_prediction.csv holds them."""

    source: str
    large: bool
    kinds: tuple[str, ...]
    published: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Points of efficiency."""
        return 100 * abs(self.predicted - self.published)

    @property
    def inside(self) -> bool:
        return self.low <= self.published <= self.high

    @staticmethod
    def read(row: Row, prefix: str = "") -> "Line":
        numbers = [
            float(row[name])
            for name in ("published", *(prefix + each for each in ("predicted", "low", "high")))
        ]
        return Line(row["source"], int(row["gpus"]) > 8, tuple(row["kinds"].split("; ")), *numbers)


def mean_error(lines: Iterable[Line]) -> float:
    """Points, averaged over publications."""
    by_source: dict[str, list[float]] = {}
    for line in lines:
        by_source.setdefault(line.source, []).append(line.error)
    return statistics.fmean(statistics.fmean(errors) for errors in by_source.values())


def constant_error(lines: Sequence[Line]) -> float:
    """Points, averaged over publications, of the median of all other publications."""
    found = []
    for source in {line.source for line in lines}:
        constant = statistics.median(line.published for line in lines if line.source != source)
        own = [100 * abs(constant - line.published) for line in lines if line.source == source]
        found.append(statistics.fmean(own))
    return statistics.fmean(found)


def skill(lines: Sequence[Line]) -> float:
    """Error over the constant's, of rows above 8 GPUs."""
    large = [line for line in lines if line.large]
    return mean_error(large) / constant_error(large)


def coverage(lines: Sequence[Line]) -> float:
    return statistics.fmean(line.inside for line in lines)


def width(lines: Sequence[Line]) -> float:
    """Median width of the 90% interval, points."""
    return statistics.median(100 * (line.high - line.low) for line in lines)


def by_kind(lines: Sequence[Line]) -> dict[str, list[Line]]:
    kinds = sorted({kind for line in lines for kind in line.kinds})
    return {kind: [line for line in lines if kind in line.kinds] for kind in kinds}
