"""What a run writes while it trains: metrics.jsonl, TensorBoard, pictures, the screen. One process writes;
the others hold a silent copy.
"""

import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from lbtrain.output import say
from lbtrain.runs.files import as_png, open_to_append, saving, write_whole
from lbtrain.runs.rows import EvalRow, Row, TrainRow, TrustRow, flat, read_rows
from lbtrain.runs.screen import Screen
from lbtrain.runs.summary_csv import summary_csv
from lbtrain.runs.trackers import Trackers

Pictures = dict[str, NDArray[np.uint8]]
"""What to look at, by name: uint8 (height, width, 3)."""


class Records:
    """Writes to `run_dir` if `enabled`. After a resume, rows behind the checkpoint are dropped: every step
    stands there once.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        enabled: bool,
        on_screen: bool,
        total_examples: int,
        resumed_at: int = 0,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, str] | None = None,
    ):
        """`trackers` beside metrics.jsonl; `config` is what they show as the settings of the run."""
        self.enabled = enabled
        self.run_dir = run_dir
        if not enabled:
            return
        self._metrics = open_metrics(run_dir / "metrics.jsonl", resumed_at)
        with saving(run_dir / "tensorboard"):
            wanted = "tensorboard" in trackers
            self._board = _tensorboard(run_dir / "tensorboard", resumed_at) if wanted else None
        self._trackers = Trackers(trackers, run_dir, config or {})
        self._screen = Screen(total_examples) if on_screen else None

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
            if self._board:
                for name, value in _numbers(row, values).items():
                    self._board.add_scalar(name, value, row.examples)
        self._trackers.log(_numbers(row, values), row.step)
        if isinstance(row, EvalRow):
            rows, _ = read_rows(self.run_dir / "metrics.jsonl")
            write_whole(self.run_dir / "summary.csv", summary_csv(rows))
        if self._screen and isinstance(row, TrainRow | EvalRow):
            self._screen.show(row)

    def write_pictures(self, pictures: Pictures, row: EvalRow) -> None:
        """Each as pictures/step_N_NAME.png in the run directory and in TensorBoard."""
        for name, picture in pictures.items() if self.enabled else ():
            path = self.run_dir / "pictures" / f"step_{row.step:09}_{name}.png"
            with saving(path):
                path.parent.mkdir(exist_ok=True)
                write_whole(path, as_png(picture))
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
        self._trackers.finish()


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    """A SummaryWriter; None without the package, which repeats for the eye what metrics.jsonl has."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        say("tensorboard is not installed, so this run writes no curves: pip install 'lbtrain[tools]'")
        return None
    threading.excepthook = _leave_to_the_next_write
    return SummaryWriter(str(folder), purge_step=resumed_at + 1)


def _leave_to_the_next_write(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread prints what a full disk raises, and raises it again in the next call."""
    if not (isinstance(failed.exc_value, OSError) and "tensorboard" in type(failed.thread).__module__):
        threading.__excepthook__(failed)


def _numbers(row: Row, values: dict[str, Any]) -> dict[str, float]:
    """What a row measured, by the names that trackers show."""
    left_out = ("kind", "step", "examples")
    scalars = ((name, value) for name, value in _scalars(row, values) if name not in left_out)
    return {f"{row.kind}/{name}": value for name, value in scalars if isinstance(value, int | float)}


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
    """Keeps the rows up to the checkpoint; a file with damaged lines is kept beside it, and so are the rows
    of a run that starts anew because it has no checkpoint.
    """
    kept, note = read_rows(path) if resumed_at else ([], "")
    with saving(path):
        if not resumed_at and path.exists() and path.stat().st_size:
            names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
            earlier = next(name for name in names if not os.path.lexists(name))
            path.replace(earlier)
            say(f"note: the rows of an earlier start, of which no checkpoint is left, are in {earlier}")
        if note:
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            say(f"{note}; the file as it was is {aside}", error=True)
        text = "".join(json.dumps(row) + "\n" for row in kept if row["examples"] <= resumed_at)
        write_whole(path, text)
        return os.fdopen(open_to_append(path), "a")
