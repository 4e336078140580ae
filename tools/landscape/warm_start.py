"""`warm-start RUN_DIR RECIPE`: a large batch that goes on from the weights of every checkpoint of a small
batch's run: its error, and how sharp the minimum is that it ends in (Keskar et al. 2017, section 4).
"""

import io
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.axes import Axes

from lbtrain import Recipe
from lbtrain.recipe.files import load_recipe
from lbtrain.runs.files import write_whole

from ..kit.charts import BLUE, GREY, ORANGE, Chart, legend_below, save, tidy
from ..kit.tables import Table
from ..study.arm import score_metric_of
from ..study.grid import GridArm, Point, trained
from ..study.jobs import Launch
from .loss import LossOptions, TrainingLoss, check_classifier
from .measures import BOXES, Measures, check_same_network, epoch_of
from .runs import DistContext, Run


def warm_start(run: Run, path: Path, overrides: Sequence[str], launch: Launch, options: LossOptions) -> str:
    """Trains what is missing, writes warm_start.json and .png into --out; returns the table for the terminal.

    Raises RecipeError, before anything is trained, for a run that kept fewer than two checkpoints, for a
    recipe that cannot go on from it or be measured, and as `trained` does.
    """
    starts, recipe = list(run.at_checkpoints()), load_recipe(path).with_overrides(overrides)
    _check(run, path, recipe, launch, options)
    arms = [
        GridArm(at.whole.path.stem, path, recipe, partial(_words, overrides, _weights(at, launch.out)))
        for at in starts
    ]
    points = trained(arms, [recipe.batch_size], launch)
    context, metric = DistContext.join(), arms[0].primary_metric
    small = [(row["step"], row[metric.name]) for row in run.rows("eval")]
    rows: list[dict[str, Any]] = [
        {
            "epoch": epoch_of(at, context),
            "small_batch": [score for step, score in small if step == at.step],
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


def _check(run: Run, path: Path, recipe: Recipe, launch: Launch, options: LossOptions) -> None:
    for where, each in ((run.path, run.recipe), (path, recipe)):
        check_classifier(where, each)
        score_metric_of(each)
    check_same_network(run.recipe, recipe)
    options.check({path: launch.plan_of(recipe).bn_batch_size}, 1)


def _weights(at: Run, out: Path) -> Path:
    """What `model.weights` is to name: the checkpoint. Of a run that keeps an average, which would be taken
    before the weights, a file of the weights alone: it is their score that the table shows.
    """
    checkpoint = at.whole
    if not at.recipe.ema.decay:
        return checkpoint.path
    path = out / "weights" / f"{checkpoint.path.stem}_{checkpoint.checksum[:8]}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(at.read_checkpoint().state["model"], content)
        write_whole(path, content.getvalue())
    return path


def _words(overrides: Sequence[str], weights: Path, batch_size: int) -> tuple[str, ...]:
    return *overrides, f"batch_size={batch_size}", f"model.weights={weights}"


def _sharpness(point: Point, context: DistContext, options: LossOptions) -> list[float]:
    """Keskar's metric of every run that did not diverge, in the larger box, from x."""
    runs = map(Run, point.ended)
    measured = (Measures(run, TrainingLoss(run, context, options)) for run in runs)
    return [float(each.box(BOXES[0], 0, "x")[1]["value"]) for each in measured]


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
