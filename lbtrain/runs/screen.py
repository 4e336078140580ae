"""What a run shows while it trains."""

import contextlib
import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lbtrain.console import Console
from lbtrain.output import say
from lbtrain.runs.rows import EvalRow, TrainRow

_WIDE, _USUAL = 125, 78
"""Columns of a terminal that shows everything, and of one that shows step, epoch, loss, speed and ETA."""


class Screen:
    """A progress bar with ETA, images/s, rate and loss on a terminal; a line a row elsewhere. A terminal that
    was closed ends nothing.
    """

    def __init__(self, total_examples: int, console: Console | None = None):
        self.total = total_examples
        self.started = time.monotonic()
        self.first_examples: int | None = None
        self.bar: Progress | None = None
        if console or (sys.stdout and sys.stdout.isatty()):
            console = console or Console()
            self.width = console.width
            percent, eta = TextColumn("{task.percentage:3.0f}%"), (TextColumn("ETA"), TimeRemainingColumn())
            elapsed = [TimeElapsedColumn()] if self.width >= _WIDE else []
            bar = BarColumn(bar_width=40 if self.width >= _WIDE else 10)
            words = TextColumn("{task.description}")
            self.bar = Progress(bar, percent, *elapsed, words, *eta, console=console)
            self.task = self.bar.add_task("", total=total_examples)
            self.bar.start()

    def show(self, row: TrainRow | EvalRow) -> None:
        text = _format(row)
        if self.bar and isinstance(row, TrainRow):
            with contextlib.suppress(OSError):
                short = text if self.width >= _WIDE else _short(row, self.width)
                self.bar.update(self.task, completed=row.examples, description=short)
        else:
            self.print_line(f"{text}  {self._eta(row.examples)}" if isinstance(row, TrainRow) else text)

    def _eta(self, examples: int) -> str:
        if self.first_examples is None:
            self.first_examples, self.started = examples, time.monotonic()
            return ""
        done = max(1, examples - self.first_examples)
        left = (time.monotonic() - self.started) * max(0, self.total - examples) / done
        return f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"

    def print_line(self, text: str) -> None:
        if not self.bar:
            return say(text)
        with contextlib.suppress(OSError):
            self.bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.bar:
                self.bar.stop()


def _short(row: TrainRow, width: int) -> str:
    """What fits beside the bar."""
    if width < _USUAL:
        return f"{row.step} loss {row.loss:.4f}"
    return f"step {row.step} ep {row.epoch:.2f} loss {row.loss:.4f} {row.images_per_sec:,.0f} img/s"


def _format(row: TrainRow | EvalRow) -> str:
    if isinstance(row, TrainRow):
        return (
            f"step {row.step}  epoch {row.epoch:.2f}  loss {row.loss:.4f}  lr {row.lr:.4g}  "
            f"{row.images_per_sec:,.0f} images/s"
        )
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.metrics.items())
    return f"evaluation  epoch {row.epoch:.2f}  {metrics}  ({row.seconds:.1f} s)"
