"""The report that every command reads and writes: measured rows, predicted rows, collective timings, and
where they come from.

None means "not measured" and is shown as that; no column is ever filled with a guess.
"""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from scipy.special import stdtrit

from lbtrain.errors import RecipeError
from lbtrain.runs.files import saving, write_whole

from .model.prediction import Prediction
from .row import Row, checked, row_of
from .table import table_rows

T = TypeVar("T")


class ReportError(RecipeError):
    """A report that cannot be read or used."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One all-reduce: median seconds of `num_bytes` over `gpus` ranks on `nodes` nodes."""

    gpus: int
    nodes: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class OwnTimes:
    """Forward and backward seconds of every step of one rank, in a run without gradient exchange, where
    nobody waits for anybody.
    """

    gpus: int
    rank: int
    host: str
    own_s: list[float]


@dataclass(kw_only=True)
class Report:
    rows: list[Row] = field(default_factory=list)
    own_times: list[OwnTimes] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Raises SaveFailed."""
        with saving(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.text())

    def good_rows(self) -> list[Row]:
        return [row for row in self.rows if row.status == "ok" and row.images_per_s]


def load(path: Path, *, gpus_per_node: int | None = None) -> Report:
    """Read a report, or a table in CSV that has columns of a report's rows: gpus and images_per_s at least.
    A table without a column nodes is of nodes of `gpus_per_node` GPUs, 8 if that is not known. Raises
    ReportError with the reason if the file is missing, is something else, or states a point twice.
    """
    report = _read_report(path, gpus_per_node)
    check_points(report.rows, f"{path}")
    return report


def _read_report(path: Path, gpus_per_node: int | None) -> Report:
    try:
        if path.suffix == ".csv":
            size = gpus_per_node or 8
            rows = table_rows(path.read_text(encoding="utf-8-sig"), size)  # Excel begins a file with a mark
            return Report(rows=with_efficiency(list(rows)), provenance={"gpus_per_node": size})
        values = json.loads(path.read_text(encoding="utf-8"))
        return Report(
            rows=list(_each(row_of, values, "rows")),
            own_times=list(_each(partial(checked, OwnTimes), values, "own_times")),
            predictions=list(_each(partial(checked, Prediction), values, "predictions")),
            collectives=list(_each(partial(checked, Collective), values, "collectives")),
            provenance=values["provenance"],
        )
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read ({error.strerror}); give a report written by measure, predict or ingest"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReportError(f"{path} is not a scaling report ({type(error).__name__}: {error})") from None


def _each(make: Callable[[Any], T], values: dict[str, Any], name: str) -> Iterator[T]:
    for number, each in enumerate(values[name], 1):
        try:
            yield make(each)
        except ValueError as error:
            raise ValueError(f"number {number} of its {name}: {error}") from None


def check_out(out: Path, inputs: Iterable[Path]) -> None:
    """Raises ReportError where writing `out` would replace one of the files that were read."""
    for each in inputs:
        if out.resolve() == each.resolve():
            raise ReportError(f"--out {out} would replace {each}, which is read: give another --out")


def check_points(rows: Iterable[Row], source: str) -> None:
    """Raises ReportError where two good rows of `source` are of one size and kind."""
    good = (row for row in rows if row.status == "ok" and row.images_per_s)
    counts = Counter((row.gpus, row.nodes, row.kind_label) for row in good)
    for (gpus, nodes, kind), count in counts.items():
        if count > 1:
            raise ReportError(
                f"{source}: {count} rows are of {gpus} GPUs on {nodes} node{'s' * (nodes > 1)} ({kind}): "
                "give one with the mean of repeats, or state in which of mode, data, per_gpu_batch, "
                "accumulation, zero_stage and precision they differ"
            )


def merged(reports: Sequence[tuple[str, Report]]) -> Report:
    """One report of several, each with its name. Rows are compared over all of them. Raises ReportError where
    two hold predictions, and where two rows are of one point.
    """
    if len(predicted := [name for name, report in reports if report.predictions]) > 1:
        raise ReportError(
            f"{' and '.join(predicted)} hold predictions, which answer different questions: give one of "
            "them; `advise` sets predictions side by side"
        )
    together = Report()
    for _, report in reports:
        together.rows += report.rows
        together.own_times += report.own_times
        together.predictions += report.predictions
        together.collectives += report.collectives
    check_points(together.rows, " and ".join(name for name, _ in reports))
    together.rows = with_data_wait(with_efficiency(together.rows))
    together.provenance = _origins(reports)
    return together


def _origins(reports: Sequence[tuple[str, Report]]) -> dict[str, Any]:
    """The provenance of all; what differs is kept with the name of its report."""
    every = [report.provenance for _, report in reports]
    found: dict[str, Any] = {}
    for name, report in reports:
        for key, value in report.provenance.items():
            alike = all(each.get(key, value) == value for each in every)
            found[key if alike else f"{key} of {name}"] = value
    return found


def with_efficiency(rows: Sequence[Row]) -> list[Row]:
    """The rows with speed-up and efficiency against the smallest measured size of the same kind."""
    smallest: dict[tuple[object, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.gpus):
        if row.status == "ok" and row.images_per_s:
            smallest.setdefault(row.kind, row)
    return [_against(row, smallest.get(row.kind)) for row in rows]


def with_data_wait(rows: Sequence[Row]) -> list[Row]:
    """The rows with what real data adds to a step, where the same point was measured with synthetic
    data too.
    """
    synthetic = {_point(row): row.step_p50_s for row in rows if row.data == "synthetic" and row.step_p50_s}
    return [
        dataclasses.replace(row, data_wait_s=max(0.0, row.step_p50_s - synthetic[_point(row)]))
        if row.data == "real" and row.step_p50_s and _point(row) in synthetic
        else row
        for row in rows
    ]


def _point(row: Row) -> tuple[object, ...]:
    mode, _, *rest = row.kind
    return row.gpus, row.global_batch, mode, *rest


def _against(row: Row, baseline: Row | None) -> Row:
    if baseline is None or not baseline.images_per_s or not row.images_per_s:
        return row
    speed_up = row.images_per_s / baseline.images_per_s
    return dataclasses.replace(
        row, speed_up=speed_up, efficiency=speed_up * baseline.gpus / row.gpus, baseline_gpus=baseline.gpus
    )  # fmt: skip


def rate_columns(rate: float, times: Sequence[float], gpus: int) -> dict[str, Any]:
    """The columns of images/s: `rate`, and its interval from independent times of equally many images. Times
    are sampled, not rates: a mean of rates counts a slow step too little. One time has no interval.
    """
    columns: dict[str, Any] = {"images_per_s": rate, "images_per_s_gpu": rate / gpus}
    if len(times) > 1:
        half = half_interval(times) / statistics.fmean(times)
        columns |= {
            "images_per_s_gpu_low": rate * (1 - half) / gpus,
            "images_per_s_gpu_high": rate * (1 + half) / gpus,
        }
    return columns


def block_means(values: Sequence[float]) -> Iterator[float]:
    """Means of up to ten consecutive blocks: neighbouring values of a log are not independent, far blocks
    nearly are.
    """
    blocks = min(10, len(values))
    for i in range(blocks):
        yield statistics.fmean(values[i * len(values) // blocks : (i + 1) * len(values) // blocks])


def half_interval(samples: Sequence[float]) -> float:
    """Half the width of the 95% interval of the samples' mean, by Student's t."""
    return float(stdtrit(len(samples) - 1, 0.975)) * statistics.stdev(samples) / len(samples) ** 0.5
