"""What a run writes while it goes: metrics.jsonl, TensorBoard, the screen, summary.json. One process writes;
the others hold a silent copy.
"""

import contextlib
import dataclasses
import io
import json
import os
import sys
import threading
import time
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lbtrain.runs.files import open_to_append, read_whole, saving, write_whole

Pictures = dict[str, NDArray[np.uint8]]
"""What to look at, by name: uint8 (height, width, 3)."""


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
    replaced_images: int = 0
    """Broken images that were replaced (data.on_error=replace) since the row before or the restart, over all
    ranks.
    """
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


class Records:
    """Writes to `run_dir` if `enabled`. After a resume, rows behind the checkpoint are dropped: every step
    stands there once.
    """

    def __init__(
        self, run_dir: Path, *, enabled: bool, on_screen: bool, total_examples: int, resumed_at: int = 0
    ):
        self.enabled = enabled
        self.run_dir = run_dir
        if not enabled:
            return
        self._metrics = open_metrics(run_dir / "metrics.jsonl", resumed_at)
        with saving(run_dir / "tensorboard"):
            self._board = _tensorboard(run_dir / "tensorboard", resumed_at)
        self._screen = _Screen(total_examples) if on_screen else None

    def written(self, kind: str) -> list[dict[str, Any]]:
        """The rows of a kind so far, those before a resume included; none where this rank does not write."""
        if not self.enabled:
            return []
        return [row for row in read_rows(self.run_dir / "metrics.jsonl")[0] if row["kind"] == kind]

    def write(self, row: Row) -> None:
        if not self.enabled:
            return
        values = flat(row)
        with saving(self.run_dir / "metrics.jsonl"):
            self._metrics.write(json.dumps(values) + "\n")
            self._metrics.flush()
        with saving(self.run_dir / "tensorboard"):
            for name, value in _scalars(row, values) if self._board else ():
                if name not in ("kind", "step", "examples") and value is not None:
                    self._board.add_scalar(f"{row.kind}/{name}", value, row.examples)
        if self._screen and isinstance(row, TrainRow | EvalRow):
            self._screen.show(row)

    def write_pictures(self, pictures: Pictures, row: EvalRow) -> None:
        """Each as pictures/step_N_NAME.png in the run directory and in TensorBoard."""
        for name, picture in pictures.items() if self.enabled else ():
            path = self.run_dir / "pictures" / f"step_{row.step:09}_{name}.png"
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            with saving(path):
                path.parent.mkdir(exist_ok=True)
                write_whole(path, content.getvalue())
                if self._board:
                    self._board.add_image(f"{row.kind}/{name}", picture, row.examples, dataformats="HWC")

    def close(self) -> None:
        if not self.enabled:
            return
        if self._screen:
            self._screen.close()
        with saving(self.run_dir / "metrics.jsonl"):
            self._metrics.close()
        with saving(self.run_dir / "tensorboard"):
            if self._board:
                self._board.close()


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    """A SummaryWriter; None without the package, which repeats for the eye what metrics.jsonl has."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        print("tensorboard is not installed, so this run writes no curves: pip install 'lbtrain[tools]'")
        return None
    threading.excepthook = _leave_to_the_next_write
    return SummaryWriter(str(folder), purge_step=resumed_at + 1)


def _leave_to_the_next_write(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread prints what a full disk raises, and raises it again in the next call."""
    if not (isinstance(failed.exc_value, OSError) and "tensorboard" in type(failed.thread).__module__):
        threading.__excepthook__(failed)


def _scalars(row: Row, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(row, TrustRow):
        yield from row.ratios.items()
        return
    for name, value in values.items():
        yield from (
            ((f"{name}/{key}", each) for key, each in value.items())
            if isinstance(value, dict)
            else [(name, value)]
        )


def open_metrics(path: Path, resumed_at: int) -> TextIO:
    """Keeps the rows up to the checkpoint; a file with damaged lines is kept beside it."""
    kept, note = read_rows(path) if resumed_at else ([], "")
    with saving(path):
        if note:
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            print(f"{note}; the file as it was is {aside}", file=sys.stderr, flush=True)
        text = "".join(json.dumps(row) + "\n" for row in kept if row["examples"] <= resumed_at)
        write_whole(path, text)
        return os.fdopen(open_to_append(path), "a")


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
    named = {spec.name: spec for spec in dataclasses.fields(kind) if spec.name not in ("metrics", "parts")}
    complete = all(name in row for name, spec in named.items() if spec.default is dataclasses.MISSING)
    hints = typing.get_type_hints(kind)
    right = all(_is_a(value, hints[name] if name in named else float) for name, value in row.items())
    return row if complete and right else None


def _is_a(value: Any, kind: Any) -> bool:
    """Of a type that a field of a row may have."""
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, each) for each in kind.__args__)
    if kind is float:
        return type(value) in (int, float)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(each, kind.__args__[1]) for each in value.values())
    return type(value) is kind and not (kind is int and value < 0)


class _Screen:
    """A progress bar with ETA, images/s, rate and loss on a terminal; a line a row elsewhere. A terminal that
    was closed ends nothing.
    """

    def __init__(self, total_examples: int):
        self.total = total_examples
        self.started = time.monotonic()
        self.first_examples: int | None = None
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            shape = [
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            ]
            self.bar = Progress(*shape, TextColumn("{task.description}"), console=Console())
            self.task = self.bar.add_task("", total=total_examples)
            self.bar.start()

    def show(self, row: TrainRow | EvalRow) -> None:
        text = _words(row)
        if self.bar and isinstance(row, TrainRow):
            with contextlib.suppress(OSError):
                self.bar.update(self.task, completed=row.examples, description=text)
        else:
            self.say(f"{text}  {self._eta(row.examples)}" if isinstance(row, TrainRow) else text)

    def _eta(self, examples: int) -> str:
        if self.first_examples is None:
            self.first_examples, self.started = examples, time.monotonic()
            return ""
        done = max(1, examples - self.first_examples)
        left = (time.monotonic() - self.started) * max(0, self.total - examples) / done
        return f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody may be there to read it any more
            if self.bar:
                self.bar.console.print(text, highlight=False, markup=False)
            else:
                print(text, flush=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.bar:
                self.bar.stop()


def _words(row: TrainRow | EvalRow) -> str:
    if isinstance(row, TrainRow):
        return (
            f"step {row.step}  epoch {row.epoch:.2f}  loss {row.loss:.4f}  lr {row.lr:.4g}  "
            f"{row.images_per_sec:,.0f} images/s"
        )
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.metrics.items())
    return f"evaluation  epoch {row.epoch:.2f}  {metrics}  ({row.seconds:.1f} s)"
