"""`sharpness RUN_DIR...`: how far the loss rises near the minima of runs, with mean and deviation over the
seeds of each recipe (five in Keskar et al. 2017, Tables 3 and 4).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lbtrain.errors import RecipeError
from lbtrain.recipe.schema import SAME_SCORE, differences

from ..kit.charts import BLUE, Chart, tidy
from ..kit.tables import Table
from ..study.arm import deviation, interval_of, origin_of
from ..study.report import provenance_of, write_result
from .measures import KESKAR
from .runs import Run, names_of


@dataclass(frozen=True)
class Seeds:
    """The runs of one recipe, which differ in their seeds, and what was measured of each."""

    runs: list[Run]
    found: list[dict[str, Any]]

    @property
    def batch_size(self) -> int:
        return int(self.runs[0].plan["batch_size"])

    def values(self, name: str) -> list[float]:
        return [float(each[name]["value"]) for each in self.found]

    @property
    def training_losses(self) -> list[float]:
        """At the minima, over the examples of the measurement."""
        return [float(each[KESKAR]["base"]) for each in self.found]

    def column(self) -> list[str]:
        """Batch size, number of runs, training loss and every measure, for a table."""
        measures = [self.values(name) for name in self.found[0]]
        cells = [_cell(values) for values in (self.training_losses, *measures)]
        return [f"{self.batch_size:,}", str(len(self.runs)), *cells]


def check_finished(runs: Sequence[Run]) -> None:
    """Raises RecipeError for a run that has not ended, and is at no minimum, and for one that has the seed of
    another of its recipe, and would count twice.
    """
    for number, run in enumerate(runs):
        if not run.summary:
            raise RecipeError(f"{run.path} has not finished (no summary.json): its end is what is measured")
        for other in runs[:number]:
            if _differ_in_seed(other, run) and other.recipe.seed == run.recipe.seed:
                raise RecipeError(
                    f"{other.path} and {run.path} are of one recipe and one seed: name one of them"
                )


def by_recipe(runs: Sequence[Run], found: Sequence[dict[str, Any]]) -> list[Seeds]:
    """In the order in which their first runs stand."""
    groups: list[Seeds] = []
    for run, values in zip(runs, found, strict=True):
        same = (group for group in groups if _differ_in_seed(group.runs[0], run))
        if not (group := next(same, None)):
            groups.append(group := Seeds([], []))
        group.runs.append(run)
        group.found.append(values)
    return groups


def _differ_in_seed(first: Run, second: Run) -> bool:
    changed = {key for key, *_ in differences(first.recipe, second.recipe)}
    return changed <= SAME_SCORE | {"seed"}


def names_of_seeds(groups: Sequence[Seeds]) -> list[str]:
    """The folder of each recipe's runs, as far as these differ; of a single run, its own, and where several
    recipes have their runs in one folder, that of their first runs.
    """
    first = [group.runs[0].path.resolve() for group in groups]
    folders = [run.parent if len(group.runs) > 1 else run for run, group in zip(first, groups, strict=True)]
    return names_of(folders if len(set(folders)) == len(folders) else first)


def table_of(groups: Sequence[Seeds]) -> Table:
    """A column for each recipe."""
    names = ["batch size", "runs", "training loss", *groups[0].found[0]]
    columns = [group.column() for group in groups]
    return Table(["", *names_of_seeds(groups)], [list(row) for row in zip(names, *columns, strict=True)])


def outcomes(groups: Sequence[Seeds]) -> list[str]:
    """How much sharper each minimum is than the first, by Keskar's measure, with intervals of 95% that hold
    together.
    """
    first, *others = zip(names_of_seeds(groups), groups, strict=True)
    base = first[1].values(KESKAR)
    return [
        f"{name}: {_gap(group.values(KESKAR), base, len(others), f'against {first[0]} ({KESKAR})')}"
        for name, group in others
    ]


def report(groups: Sequence[Seeds], out: Path, *, title: str, command: str) -> str:
    """Writes sharpness.md, .json, .png and .html into `out`; returns the text for the terminal."""
    summaries = [run.summary for group in groups for run in group.runs if run.summary]
    rows = [
        {
            "arm": name,
            "batch_size": group.batch_size,
            "n": len(group.runs),
            "diverged": 0,
            "mean": statistics.mean(group.values(KESKAR)),
            "std": deviation(group.values(KESKAR)),
            "training_loss": group.training_losses,
            "measures": {measure: group.values(measure) for measure in group.found[0]},
            "recipe": "",
        }
        for name, group in zip(names_of_seeds(groups), groups, strict=True)
    ]
    data = {
        "title": title,
        "command": command,
        "overrides": [],
        "rows": rows,
        "outcomes": outcomes(groups),
        "provenance": provenance_of({origin_of(summary) for summary in summaries}, command),
    }
    return write_result(out, "sharpness", title, data, [_chart(rows, title)], [table_of(groups)])


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {deviation(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{spread}"


def _gap(values: Sequence[float], base: Sequence[float], comparisons: int, against: str) -> str:
    gap = statistics.mean(values) - statistics.mean(base)
    spreads = [(deviation(each), len(each)) for each in (values, base)]
    error = interval_of(*spreads, comparisons=comparisons)
    if error is None:
        return f"{gap:+.3g} {against}"
    remark = "" if abs(gap) > error else ": no difference that these seeds can show"
    return f"{gap:+.3g} ± {error:.2g} {against}{remark}"


def _chart(rows: Sequence[dict[str, Any]], title: str) -> Chart:
    alt = f"{KESKAR}, mean and two standard deviations of the runs of each recipe."
    return Chart(title, alt, partial(_draw, rows=rows), width=7, height=1.2 + 0.45 * len(rows))


def _draw(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    places = range(len(rows))
    bars = [2 * row["std"] for row in rows]
    axes.errorbar([row["mean"] for row in rows], places, xerr=bars, fmt="o", color=BLUE, capsize=3)
    axes.set_yticks(places, [f"{row['arm']} (n={row['n']})" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel=f"sharpness ({KESKAR}), ± 2 std of the runs", ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlim(left=0)
    tidy(axes, legend=False)
