"""Which rank was slowest in runs that exist, and how long the others waited for it.

Every training row of a run on several ranks names its slowest rank, that rank's host, and the share of time
in which the ranks waited for it on average. `stragglers` sums these over each run and writes stragglers.html
and stragglers.png. `rank_wait` is a lower bound for a rank that computes slowly (docs/reliability.md).
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lbtrain.runs.rows import read_rows

from ..kit.charts import Chart, look, save, tidy
from ..kit.pages import report
from ..kit.tables import Table
from .report import ReportError

_MOST_ROWS = 24
_MOST_BARS = 12
_MOST_NAMES = 8
"""Of runs in a legend: more would hide the lines, and the bars name the runs that matter."""


@dataclass(frozen=True)
class Waits:
    """Of one run: for each logged row the epoch, the slowest rank with its host, the share of time in which
    the ranks waited for it, in [0, 1], and the seconds that the row stands for.
    """

    run: str
    rows: list[tuple[float, str, float, float]]

    @classmethod
    def of(cls, run: str, rows: Sequence[dict[str, Any]]) -> "Waits | None":
        """None where the rows of metrics.jsonl name no slowest rank: there is one rank only."""
        found, seen = [], 0
        for row in rows:
            if row["kind"] != "train":
                continue
            if row.get("slowest_rank") is not None:
                rank = f"rank {row['slowest_rank']} on {row['slowest_host']}"
                # Rows of earlier versions do not say over how many images they are.
                images = row.get("averaged_images") or row["examples"] - seen
                found.append((row["epoch"], rank, row["rank_wait"], images / row["images_per_sec"]))
            seen = row["examples"]
        return cls(run, found) if found else None

    def by_rank(self) -> dict[str, tuple[float, float]]:
        """By slowest rank, the longest wait first: the share of the run in which it was the slowest, and the
        share of the run that the ranks waited for it.
        """
        total = sum(seconds for *_, seconds in self.rows)
        slowest, waited = defaultdict[str, float](float), defaultdict[str, float](float)
        for _, rank, share, seconds in self.rows:
            slowest[rank] += seconds / total
            waited[rank] += share * seconds / total
        return {rank: (slowest[rank], waited[rank]) for rank in sorted(waited, key=waited.__getitem__)[::-1]}


def sentences(runs: Sequence[Waits]) -> list[str]:
    found = []
    for run in runs:
        rank, (slowest, _) = next(iter(run.by_rank().items()))
        waited = sum(share for _, share in run.by_rank().values())
        found.append(
            f"{run.run}: the ranks waited {waited:.1%} of the time for the slowest, most of it for {rank}, "
            f"which was the slowest in {slowest:.0%} of the run"
        )
    return found


def table(runs: Sequence[Waits]) -> Table:
    """The ranks of each run that were waited for longest; of many runs, one each."""
    ranks = max(_MOST_ROWS // len(runs), 1)
    rows = [
        [run.run, rank, f"{slowest:.1%}", f"{waited:.2%}"]
        for run in runs
        for rank, (slowest, waited) in islice(run.by_rank().items(), ranks)
    ]
    head = ["run", "slowest rank", "share of the run in which it was", "share of the run waited for it"]
    shortened = any(len(run.by_rank()) > ranks for run in runs)
    title = f"The slowest rank (of each run, the worst {ranks})" if shortened else "The slowest rank"
    return Table(head, rows, title=title, align="llrr")


def charts(runs: Sequence[Waits]) -> list[Chart]:
    names = ", ".join(run.run for run in runs)
    return [
        Chart(
            "waiting for the slowest rank, % of the time",
            f"Share of the time in which the ranks waited for the slowest, over the epochs of {names}.",
            partial(_draw_run, runs=runs),
        ),
        Chart(
            "rank that was waited for, % of the run",
            f"Bars: the share of the run in which the others waited for each rank, in {names}.",
            partial(_draw_ranks, runs=runs),
        ),
    ]


def _draw_run(axes: Axes, runs: Sequence[Waits]) -> None:
    for number, run in enumerate(runs):
        epochs, _, shares, _ = zip(*run.rows, strict=True)
        few = "o" if len(epochs) < 10 else None
        axes.plot(epochs, [100 * each for each in shares], **look(number), marker=few, label=run.run)
    axes.set(xlabel="epoch", ylim=(0, None))
    tidy(axes, legend=len(runs) <= _MOST_NAMES)


def _draw_ranks(axes: Axes, runs: Sequence[Waits]) -> None:
    bars = [
        (waited, rank if len(runs) == 1 else f"{run.run}, {rank}", look(number)["color"])
        for number, run in enumerate(runs)
        for rank, (_, waited) in run.by_rank().items()
    ]
    longest = sorted(bars)[-_MOST_BARS:]
    places = range(len(longest))
    colours = [colour for *_, colour in longest]
    axes.barh(places, [100 * waited for waited, *_ in longest], color=colours, alpha=0.5)
    for place, (_, name, _) in zip(places, longest, strict=True):
        # Beside the axis it would need its room.
        axes.text(0, place, f" {name[-44:]}", va="center", fontsize=8)
    axes.set_yticks([])
    tidy(axes, legend=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN_DIR", help="directories of runs on two or more ranks")
    add("--out", type=Path, help="folder to write to (default: the first RUN_DIR)")


def run(options: argparse.Namespace) -> int:
    runs = [_read(folder, options.runs) for folder in options.runs]
    out = options.out or options.runs[0]
    out.mkdir(parents=True, exist_ok=True)
    page = out / "stragglers.html"
    origin = "slowest_rank, slowest_host and rank_wait of " + ", ".join(map(str, options.runs))
    text = report("The slowest rank", sentences(runs), charts(runs), [table(runs)], origin)
    page.write_text(text, encoding="utf-8")
    print(
        table(runs).text(),
        "",
        *sentences(runs),
        "",
        page,
        save(charts(runs), page.with_suffix(".png")),
        sep="\n",
    )
    return 0


def _read(folder: Path, folders: Sequence[Path]) -> Waits:
    rows, note = read_rows(folder / "metrics.jsonl")
    if not rows:
        raise ReportError(note or f"{folder} is not a run directory, or its run has logged nothing yet")
    alike = sum(each.resolve().name == folder.resolve().name for each in folders) > 1
    found = Waits.of(str(folder) if alike else folder.resolve().name, rows)
    if found is None:
        raise ReportError(f"{folder}: its rows name no slowest rank, because the run had one rank only")
    return found
