"""The report that every command reads and writes: measured rows, predicted rows, collective timings, and
where they come from.

None means "not measured" and is shown as that; no column is ever filled with a guess.
"""

import contextlib
import csv
import dataclasses
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from lbtrain.errors import RecipeError
from lbtrain.runs.files import saving, write_whole

from .model.prediction import Prediction


class ReportError(RecipeError):
    """A report that cannot be read or used."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured configuration. Times in seconds a step (median over steps, slowest rank); images_per_s of
    all GPUs together.
    """

    gpus: int
    nodes: int
    mode: str = "weak"
    data: str = "synthetic"
    per_gpu_batch: int | None = None  # images of a GPU and micro-step
    global_batch: int | None = None
    accumulation: int | None = None
    zero_stage: int | None = None
    precision: str | None = None  # that matrix products are computed in: fp32, tf32, bf16 or fp16
    images_per_s: float | None = None
    images_per_s_gpu: float | None = None
    images_per_s_gpu_low: float | None = None  # 95% interval
    images_per_s_gpu_high: float | None = None
    speed_up: float | None = None
    efficiency: float | None = None
    baseline_gpus: int | None = None
    step_p50_s: float | None = None
    step_p95_s: float | None = None
    compute_s: float | None = None
    exposed_communication_s: float | None = None
    data_wait_s: float | None = None  # step with real data minus step with synthetic data; not of detection
    loader_wait_s: float | None = None  # in the loader, slowest rank; the device's queue may hide part of it
    optimizer_s: float | None = None
    slowest_rank: int | None = None
    slowest_host: str | None = None
    rank_spread: float | None = None  # (slowest - fastest) / median of the ranks' own times
    straggler_wait_s: float | None = None  # of an average rank: mean of the slowest's own time minus the mean
    jitter: float | None = None  # relative standard deviation of a rank's own time, over ranks and steps
    mfu: float | None = None  # model FLOPs over the data sheet's peak in this precision
    overlap: float | None = None  # share of the exchange that computing hides; needs measure --collectives
    status: str = "ok"

    @property
    def kind(self) -> tuple[str, str, int, int, int | None, str | None]:
        """What rows of different sizes must share to be compared: also the precision and, under weak scaling,
        the images of a GPU, under strong scaling those of a step.
        """
        images = self.per_gpu_batch if self.mode == "weak" else self.global_batch
        return self.mode, self.data, self.zero_stage or 0, self.accumulation or 1, images, self.precision

    @property
    def kind_label(self) -> str:
        mode, data, stage, accumulation, images, precision = self.kind
        return (
            f"{mode}, {data}"
            + (f", ZeRO-{stage}" if stage else "")
            + (f", {accumulation} micro-steps" if accumulation > 1 else "")
            + (f", {images} {'a GPU' if mode == 'weak' else 'a step'}" if images else "")
            + (f", {precision}" if precision else "")
        )


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
            rows = _table_rows(path.read_text(encoding="utf-8-sig"), size)  # Excel begins a file with a mark
            return Report(rows=with_efficiency(list(rows)), provenance={"gpus_per_node": size})
        values = json.loads(path.read_text(encoding="utf-8"))
        return Report(
            rows=[Row(**row) for row in values["rows"]],
            own_times=[OwnTimes(**each) for each in values["own_times"]],
            predictions=[Prediction(**row) for row in values["predictions"]],
            collectives=[Collective(**row) for row in values["collectives"]],
            provenance=values["provenance"],
        )
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read ({error.strerror}); give a report written by measure, predict or ingest"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReportError(f"{path} is not a scaling report ({type(error).__name__}: {error})") from None


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


def _table_rows(text: str, gpus_per_node: int) -> Iterator[Row]:
    lines = csv.reader(text.splitlines())
    columns = _columns(next(lines, []))
    for cells in filter(any, lines):
        if any(cells[len(columns) :]):
            raise ValueError(f"line {lines.line_num} has more cells than the first line has names")
        pairs = zip(columns, cells, strict=False)
        named = {name: _read(cell.strip()) for name, cell in pairs if name and cell.strip()}
        gpus, rate, images = named.get("gpus", 0), named.get("images_per_s"), named.get("per_gpu_batch")
        if not all(type(count) is int and count > 0 for count in (gpus, named.get("nodes", 1))):
            raise ValueError(f"line {lines.line_num}: gpus and nodes must be whole numbers above 0")
        if named.get("status", "ok") == "ok" and rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"line {lines.line_num}: images_per_s={rate} must be a number above 0")
        usual = {
            "nodes": -(-gpus // gpus_per_node),
            "global_batch": images and images * gpus * (named.get("accumulation") or 1),
            "data": "log",
            "images_per_s_gpu": rate and rate / gpus,
        }
        yield Row(**usual | named)


def _columns(header: Sequence[str]) -> list[str]:
    """The names of a table's columns, as a row has them; that of an unnamed one, which is not read, is empty.
    Raises ValueError for a name that no row has, and for one that stands twice.
    """
    names = [re.sub("^images_per_sec(ond)?(?=$|_)", "images_per_s", name.strip()) for name in header]
    known = [each.name for each in dataclasses.fields(Row)]
    if unknown := [name for name in names if name and name not in known]:
        raise ValueError(f"no column is called {', '.join(unknown)}; there are {', '.join(known)}")
    if twice := [name for name in known if names.count(name) > 1]:
        raise ValueError(f"several columns are called {', '.join(twice)}: keep one of them")
    return names


def _read(cell: str) -> Any:
    with contextlib.suppress(ValueError):
        value = float(cell)
        return int(value) if value.is_integer() else value  # pandas writes counts as 8.0 beside gaps
    return cell


def merged(reports: Iterable[Report]) -> Report:
    together = Report()
    for report in reports:
        together.rows += report.rows
        together.own_times += report.own_times
        together.predictions += report.predictions
        together.collectives += report.collectives
        together.provenance |= report.provenance
    return together


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
