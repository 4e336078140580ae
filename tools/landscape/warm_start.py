"""`warm-start RUN_DIR RECIPE`: a large batch that goes on from the weights of every checkpoint of a small
batch's run: its error, and how sharp the minimum is that it ends in (Keskar et al. 2017, section 4).
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from lbtrain.recipe.files import load_recipe
from lbtrain.runs.files import write_whole

from ..kit.charts import BLUE, GREY, ORANGE, Chart, legend_below, save, tidy
from ..kit.tables import Table
from ..study.grid import GridArm, Point, trained
from ..study.jobs import Launch
from .measures import BOXES, Measures
from .runs import DistContext, LossOptions, Run


def warm_start(run: Run, path: Path, overrides: Sequence[str], launch: Launch, options: LossOptions) -> str:
    """Trains what is missing, writes warm_start.json and .png into --out; returns the table for the terminal.

    Raises RecipeError for a run that kept fewer than two checkpoints, and as `trained` does.
    """
    starts, recipe = run.at_checkpoints(), load_recipe(path).with_overrides(overrides)
    arms = [
        GridArm(file.stem, path, recipe, partial(_words, overrides, file))
        for file in (at.checkpoint.path for at in starts)
    ]
    points = trained(arms, [recipe.batch_size], launch)
    context, metric = DistContext.join(), arms[0].primary_metric
    small = [(row["step"], row[metric.name]) for row in run.rows("eval")]
    rows: list[dict[str, Any]] = [
        {
            "epoch": at.epoch,
            "small_batch": [score for step, score in small if step == at.checkpoint.progress.step],
            "large_batch": point.scores,
            "sharpness": _sharpness(point, context, options),
        }
        for at, point in zip(starts, points, strict=True)
    ]
    write_whole(launch.out / "warm_start.json", json.dumps(rows, indent=1) + "\n")
    cells = [
        [f"{row['epoch']:.4g}", *(_cell(row[name]) for name in ("small_batch", "large_batch", "sharpness"))]
        for row in rows
    ]
    header = ["epoch", f"{metric.label} of the small batch", "of the large one from there", "sharpness"]
    picture = save([_chart(rows, metric.label)], launch.out / "warm_start.png")
    return f"{Table(header, cells, align='rrrr').markdown()}\n\n{picture}"


def _words(overrides: Sequence[str], weights: Path, batch_size: int) -> tuple[str, ...]:
    return *overrides, f"batch_size={batch_size}", f"model.weights={weights}"


def _sharpness(point: Point, context: DistContext, options: LossOptions) -> list[float]:
    """Keskar's metric of every run that did not diverge, in the larger box, from x."""
    runs = [Measures(Run(folder), context, options) for folder in point.ended]
    return [float(each.box(BOXES[0], 0, "x")[1]["value"]) for each in runs]


def _cell(values: list[float]) -> str:
    return f"{mean(values):.4g}" if values else "-"


def _chart(rows: Sequence[dict[str, Any]], label: str) -> Chart:
    alt = f"{label} and sharpness of the large batch over the epoch of the small batch that it starts from."
    return Chart("A warm start of the large batch", alt, partial(_draw, rows=rows, label=label), width=7)


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], label: str) -> None:
    sharp = axes.twinx()
    for name, where, color, said in (
        ("small_batch", axes, GREY, f"{label}, small batch"),
        ("large_batch", axes, BLUE, f"{label}, large batch"),
        ("sharpness", sharp, ORANGE, "sharpness, large batch"),
    ):
        values = [mean(row[name]) if row[name] else math.nan for row in rows]  # NaN: all runs diverged
        where.plot([row["epoch"] for row in rows], values, "o-", color=color, markersize=4, label=said)
    axes.set(xlabel="epoch of the small batch at the start", ylabel=f"{label} (%)")
    sharp.set(ylabel="sharpness", yscale="log")
    tidy(axes, legend=False)
    legend_below(axes, sharp)
