"""How far something is and how long it will take: a bar on a terminal, lines of text elsewhere."""

import contextlib
import math
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lbtrain.console import Console


@contextlib.contextmanager
def bar(
    what: str, at_most: int, *, done: int = 0, enabled: bool = True, stderr: bool = False
) -> Iterator[Callable[..., None]]:
    """Yields the function that moves the bar by one; `at_most` - `done` calls of it are expected.

    A call with a note (what has just finished) writes a line, beside a terminal's bar too. Where there is no
    terminal, a call without one does at every tenth. `stderr`: beside output that may be read by a program.
    """
    if not enabled:
        yield lambda note="": None
        return
    console = Console(stderr=stderr)
    counted = TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    columns = (*counted, TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=at_most, completed=done)

        def tick(note: str = "") -> None:
            progress.advance(task)
            count = int(progress.tasks[task].completed)
            if console.is_terminal:
                if note:
                    console.print(note, highlight=False, markup=False)
                return
            if not note and count % max(1, math.ceil(at_most / 10)):
                return
            left = progress.tasks[task].time_remaining
            eta = "" if left is None else f", ETA {left:.0f} s"
            print(f"{what}: {count} of {at_most}{eta}{note and f': {note}'}", file=console.file, flush=True)

        yield tick
        progress.update(task, total=progress.tasks[task].completed)
