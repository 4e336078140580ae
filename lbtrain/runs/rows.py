"""The rows of metrics.jsonl: what each kind holds, and how they are read back."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lbtrain.runs.files import read_whole


@dataclass(frozen=True)
class TrainRow:
    """Of a logged step. `examples` were seen when it ended. Losses and images_per_sec are averages since the
    row before, or since the restart, where a run went on between the two: the part of that time before its
    checkpoint is in no row.
    """

    step: int
    examples: int
    epoch: float
    batch_size: int
    lr: float
    loss: float
    images_per_sec: float
    data_wait: float
    """Share of that time in which rank 0 waited for its data, in [0, 1]."""
    skipped_steps: int
    train_error: float | None = None
    """Top-1 error in percent, averaged like the loss over the images as they were trained on: augmented, and
    each with the weights of its step. None where images are mixed, and for detection.
    """
    averaged_images: int = 0
    """Over how many images, of all ranks, the averages are. 0 in rows of earlier versions."""
    replaced_images: int = 0
    """Broken images that were replaced (data.on_error=replace) since the row before or the restart, over all
    ranks.
    """
    slowest_rank: int | None = None
    """The rank that took longest for data and forward pass in that time; None where there is one rank."""
    slowest_host: str | None = None
    rank_wait: float | None = None
    """Share of that time, in [0, 1], in which a rank waited for the slowest at least, on average over all."""
    trust_min: float | None = None
    """Layer-wise ratio of the last step over the adapted layers (LARS, LAMB); None for other optimizers."""
    trust_median: float | None = None
    trust_max: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    """Of the loss by name, where a task has several."""
    kind: str = "train"


@dataclass(frozen=True)
class EvalRow:
    """Of an evaluation: the task's own metrics by name, seconds for the whole of it."""

    step: int
    examples: int
    epoch: float
    metrics: dict[str, float]
    seconds: float
    replaced_images: int = 0
    kind: str = "eval"


@dataclass(frozen=True)
class TrustRow:
    """The layer-wise ratio of every adapted layer in the step that ended at `examples`, by parameter name."""

    step: int
    examples: int
    ratios: dict[str, float]
    kind: str = "trust"


@dataclass(frozen=True)
class CurvatureRow:
    """What ABSA measured when `examples` were seen: the largest Hessian eigenvalue, and the batch that
    follows from it.
    """

    step: int
    examples: int
    eigenvalue: float
    batch_size: int
    kind: str = "curvature"


@dataclass(frozen=True)
class NoiseRow:
    """A measurement of the gradient noise in the step that ended at `examples`; averages over it and those
    before it, at most 100.

    small_square and large_square: this step's squared norms of the mean gradient of small_batch and of
    large_batch examples.
    """

    step: int
    examples: int
    small_batch: int
    large_batch: int
    small_square: float
    large_square: float
    gradient_square: float
    """Average: the squared norm of the true gradient; may come out negative where noise hides it."""
    noise_trace: float
    """Average: the trace of the covariance of one example's gradient."""
    noise_scale: float | None
    """noise_trace / gradient_square, in examples, with a 95% interval; None: not to be told from infinite."""
    noise_scale_low: float
    noise_scale_high: float | None
    measurements: int
    kind: str = "noise"


@dataclass(frozen=True)
class LayersRow:
    """|w|, |g| and the running noise scale (None: not to be told from infinite) of every layer in a measured
    step, by parameter name.
    """

    step: int
    examples: int
    weight_norms: dict[str, float]
    gradient_norms: dict[str, float]
    noise_scales: dict[str, float | None]
    kind: str = "layers"


@dataclass(frozen=True)
class DistanceRow:
    """How far the weights have moved since the start of the run: the Euclidean norm over all parameters
    (Hoffer et al. 2017, section 3).
    """

    step: int
    examples: int
    distance: float
    kind: str = "distance"


Row = TrainRow | EvalRow | TrustRow | NoiseRow | LayersRow | DistanceRow | CurvatureRow

_KINDS = {kind.kind: kind for kind in typing.get_args(Row)}


def flat(row: Row) -> dict[str, Any]:
    """A row as it stands in metrics.jsonl: metrics and parts of the loss under their own names."""
    values: dict[str, Any] = {}
    for name, value in dataclasses.asdict(row).items():
        values |= value if name in ("metrics", "parts") else {name: value}
    return values


def read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a metrics.jsonl, and a note where lines of it, or all of it, are damaged and skipped.
    None where there is no such file. A crash may have cut off the last line: that is no damage.
    """
    try:
        *whole, _ = read_whole(path, most=2**34).split(b"\n")
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{path} is skipped ({error.strerror or error})"
    rows = [_row(line) for line in whole]
    damaged = [number for number, row in enumerate(rows, 1) if row is None]
    note = (
        f"{path}: damaged lines are skipped ({len(damaged)}, the first is line {damaged[0]})"
        if damaged
        else ""
    )
    return [row for row in rows if row is not None], note


def _row(line: bytes) -> dict[str, Any] | None:
    """None for what no run has written."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = _KINDS.get(str(row.get("kind"))) if isinstance(row, dict) else None
    if kind is None:
        return None
    known, needed = _values_of(kind)
    right = all(_is_a(value, known.get(name, float)) for name, value in row.items())
    return row if needed <= row.keys() and right else None


@cache  # of every line of a run, at each of its evaluations
def _values_of(kind: type[Row]) -> tuple[dict[str, Any], set[str]]:
    """The types of the values that a row has by name, and the names that it must have."""
    named = [spec for spec in dataclasses.fields(kind) if spec.name not in ("metrics", "parts")]
    hints = typing.get_type_hints(kind)
    needed = {spec.name for spec in named if spec.default is dataclasses.MISSING}
    return {spec.name: hints[spec.name] for spec in named}, needed


def _is_a(value: Any, kind: Any) -> bool:
    """Of a type that a field of a row may have."""
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, each) for each in kind.__args__)
    if kind is float:
        return type(value) in (int, float)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(each, kind.__args__[1]) for each in value.values())
    return type(value) is kind and not (kind is int and value < 0)
