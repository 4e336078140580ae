"""How many images the target takes at a batch: examples(B) = E_min (1 + B / B_crit) (McCandlish et al. 2018,
equation 2.11), with E_min and B_crit measured by a noise scale, by a sweep's steps, or by MLPerf's runs.
"""

import csv
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..report import ReportError

_MLPERF = Path(__file__).with_name("mlperf_epochs.csv")
# What `lbtrain landscape batch RUN_DIR` and `lbtrain landscape sweep` write.
_NOISE_SCALE, _SWEEP = Path("landscape/batch.json"), Path("steps.json")


@dataclass(frozen=True, kw_only=True)
class Critical:
    """The critical batch in images with its interval (equal bounds where it was just given; `high` None: no
    upper bound is known), the fewest images that reach the target, if known, and the largest batch that was
    trained with, if any.

    `measured_at` is the batch whose images to the target were measured: there they are known, whatever the
    critical batch is. `parts` are the lines (`_line`) of MLPerf's points but one each.
    """

    batch: float
    low: float
    high: float | None
    min_examples: float | None = None
    largest: float | None = None
    measured_at: float | None = None
    parts: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def given(batch: float) -> "Critical":
        return Critical(batch=batch, low=batch, high=batch)

    @staticmethod
    def read(path: Path) -> "Critical":
        """From a run directory or a JSON file. Raises ReportError where it is not there or holds no critical
        batch.
        """
        values, file = _json(path, _NOISE_SCALE, "`lbtrain landscape batch RUN_DIR` writes it")
        return _read(values, file)

    @staticmethod
    def of_sweep(path: Path) -> "Critical":
        """From the steps to the hardest goal of a sweep over batches. Raises ReportError where the file is
        not there or is no sweep's.
        """
        values, file = _json(path, _SWEEP, "`lbtrain landscape sweep` writes it")
        try:
            hardest = min(values["goals"], key=lambda goal: float(goal["value"]))
            measured, largest = hardest["measured"], max(row["batch_size"] for row in hardest["points"])
            low, high = measured["critical_batch_interval"]
            middle = statistics.geometric_mean(row["batch_size"] for row in hardest["points"])
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{file} is not a sweep's result ({type(error).__name__}: {error})") from None
        if not (low and high):
            raise _unbounded(file)
        return _read(measured | {"run_batch": middle}, file, largest)

    @staticmethod
    def of_mlperf(benchmark: str) -> "Critical":
        """From MLPerf's reference convergence points: images to its target at several batches."""
        rows = [
            row for row in csv.DictReader(_MLPERF.open(encoding="utf-8")) if row["benchmark"] == benchmark
        ]
        points = [(float(row["batch_size"]), float(row["epochs"]) * float(row["images"])) for row in rows]
        return _fitted(points, f"MLPerf's {benchmark}")

    def beyond(self, batches: Iterable[int]) -> str:
        """What to know of batches that are larger than any that was trained with; empty if none is."""
        larger = [batch for batch in batches if self.largest and batch > self.largest]
        if not larger:
            return ""
        return (
            f"Nothing was trained with more than {self.largest:,.0f} images a step: what {min(larger):,} and "
            "more need is extrapolated."
        )

    def bounds(self) -> list[tuple[float, float | None]]:
        """Critical batches, and the fewest images that belong to each, between which the truth lies."""
        if self.parts:
            return [(least / slope if slope > 0 else math.inf, least) for least, slope in self.parts]
        return [(batch, self._fewest(batch)) for batch in (self.low, self.high or math.inf)]

    def _fewest(self, batch: float) -> float | None:
        """Images to the target at a very small batch if the critical one is `batch`."""
        at = self.measured_at or 0.0
        return self.min_examples and self.min_examples * (1 + at / self.batch) / (1 + at / batch)

    @property
    def description(self) -> str:
        if self.low == self.high:
            return f"critical batch {self.batch:,.0f} images"
        return (
            f"critical batch {self.batch:,.0f} images ({self.low:,.0f} to "
            f"{f'{self.high:,.0f}' if self.high else 'no known bound'})"
        )


def benchmarks() -> list[str]:
    """Of MLPerf, that have convergence points here."""
    return list(dict.fromkeys(row["benchmark"] for row in csv.DictReader(_MLPERF.open(encoding="utf-8"))))


def _json(path: Path, usual: Path, remedy: str) -> tuple[dict, Path]:
    file = path / usual if path.is_dir() else path
    try:
        return json.loads(file.read_text(encoding="utf-8")), file
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {remedy}") from None
    except ValueError as error:
        raise ReportError(f"{file} does not say a critical batch ({type(error).__name__}: {error})") from None


def _read(values: dict, file: Path, largest: float | None = None) -> Critical:
    """What either command found. Raises ReportError where it cannot be."""
    try:
        batch, (low, high) = float(values["critical_batch"]), values["critical_batch_interval"]
        least, measured_at = values["min_examples"], float(values.get("run_batch", 0))
    except (ValueError, TypeError, KeyError) as error:
        raise ReportError(f"{file} does not say a critical batch ({type(error).__name__}: {error})") from None
    if low == 0:
        raise _unbounded(file)
    if not (0 < batch < math.inf and low > 0 and (high is None or low <= high)):
        raise ReportError(f"{file}: a critical batch of {batch} in [{low}, {high}] cannot be")
    return Critical(
        batch=batch,
        low=float(low),
        high=high and float(high),
        min_examples=least and float(least),
        largest=largest,
        measured_at=measured_at or None,
    )


def _unbounded(file: Path) -> ReportError:
    return ReportError(f"{file}: its measurements do not bound the critical batch; add batch sizes or seeds")


def _fitted(points: list[tuple[float, float]], source: str) -> Critical:
    """By least squares of relative errors; the interval is that of leaving out one batch at a time."""
    if len({batch for batch, _ in points}) < 3:
        raise ReportError(
            f"{source}: {len(points)} batch sizes cannot fix a critical batch; at least 3 are needed"
        )
    whole = _line(points)
    parts = [_line([*points[:i], *points[i + 1 :]]) for i in range(len(points))]
    if not whole[1] > 0:
        raise ReportError(f"{source}: a larger batch takes no more images, so there is no critical batch")
    critical = [least / slope if slope > 0 else math.inf for least, slope in parts]
    low, high = min(critical), max(critical)
    return Critical(
        batch=whole[0] / whole[1],
        low=low,
        high=high if high < math.inf else None,
        min_examples=whole[0],
        largest=max(batch for batch, _ in points),
        parts=tuple(parts),
    )


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """(images at a very small batch, images more for each image of batch)."""
    batches, examples = np.array(points).T
    found, *_ = np.linalg.lstsq(np.stack([1 / examples, batches / examples], axis=1), np.ones(len(points)))
    return float(found[0]), float(found[1])
