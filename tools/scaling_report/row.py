"""A measured row of a report, and the check of what a file says: types, ranges, and whether a row agrees with
itself. Files are edited by hand, and a value that cannot be must not become a figure.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

T = TypeVar("T")


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


def row_of(values: Mapping[str, Any]) -> Row:
    """The row that a file states. Raises ValueError, which names the column, where it cannot be."""
    row = checked(Row, values)
    if row.mode not in ("weak", "strong"):
        raise ValueError(f"mode={row.mode!r} must be weak or strong")
    if row.zero_stage not in (None, 0, 1, 2, 3):
        raise ValueError(f"zero_stage={row.zero_stage} must be 0, 1, 2 or 3")
    if row.nodes > row.gpus:
        raise ValueError(f"nodes={row.nodes} must be {row.gpus} at most, as many as the GPUs")
    if row.status == "ok":  # what was rejected or failed may have been of a batch that cannot be split
        _check_measured(row)
    return row


def _check_measured(row: Row) -> None:
    rate, images = row.images_per_s, row.per_gpu_batch
    if rate is not None and not rate > 0:
        raise ValueError(f"images_per_s={rate} must be {_RATE}")
    if images == 0:
        raise ValueError("per_gpu_batch=0 must be a whole number above 0")
    batch = images and images * row.gpus * (row.accumulation or 1)
    if batch and row.global_batch not in (None, batch):
        raise ValueError(
            f"global_batch={row.global_batch} must be {batch}: {row.gpus} GPUs with per_gpu_batch={images}"
            + (f" and accumulation={row.accumulation}" if row.accumulation else "")
        )


def checked(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of `values`, each of its field's type. Raises ValueError, which names the field."""
    check_fields(kind, values)
    return kind(**values)


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the field, for a value that is not of a field's type: counts are whole
    numbers above 0, quantities finite numbers that are not negative.
    """
    for each in dataclasses.fields(kind):
        if each.name in values and (must := _problem(each.name, each.type, values[each.name])):
            raise ValueError(f"{each.name}={values[each.name]!r} must be {must}")


_FROM_0 = ("zero_stage", "slowest_rank", "rank", "per_gpu_batch")
"""Whole numbers that may be 0; the images of a GPU, where a batch could not be split."""
_RATE = (
    "a number above 0, without marks between thousands; of a run that failed leave it empty and write why in "
    "a column status"
)


def _problem(name: str, kind: Any, value: Any) -> str:
    """What `value` must be; empty where it is that."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return ""
    if int in kinds:
        least = 0 if name in _FROM_0 else 1
        return "" if type(value) is int and value >= least else "a whole number above 0"
    if float in kinds:
        if name.endswith("_low"):  # an interval of few and wild values reaches below 0
            value = abs(value) if type(value) in (int, float) else value
        amount = _RATE if name == "images_per_s" else "a number, and not negative"
        return "" if _is_amount(value) else amount
    if str in kinds:
        return "" if isinstance(value, str) else "a text"
    parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
    whole = isinstance(value, get_origin(kind)) and all(map(_is_amount, parts))
    return "" if whole else "numbers that are not negative"


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf
