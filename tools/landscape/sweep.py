"""`sweep RECIPE`: steps to a training loss at many batch sizes, measured, against what the noise scale of one
of the runs says.

McCandlish et al. 2018, section 3: at each batch the rate is constant and the best of several; steps =
steps_min + examples_min / batch is fitted to the best ones in logarithms. The prediction comes from the run
at the batch nearest to the middle, up to the same loss.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe
from lbtrain.runs.files import write_whole

from ..kit import pages
from ..kit.charts import save
from ..kit.tables import Table
from ..study.arm import origin_of
from ..study.grid import GridArm, Point, trained
from ..study.jobs import Launch
from ..study.report import provenance_of
from . import chart
from .noise import advise, windows
from .runs import Run

LOG_EXAMPLES = 256


@dataclass(frozen=True)
class Target:
    """Steps until the training loss, averaged over about `LOG_EXAMPLES` examples, is at most `loss`; a run
    lasts `epochs` or `least_steps`, whichever is longer.
    """

    batch_sizes: tuple[int, ...]
    rates: tuple[float, ...]
    """Factors on the recipe's own rate at its own batch, scaled with the square root of the batch."""
    loss: float
    epochs: float
    least_steps: int


def sweep(path: Path, overrides: Sequence[str], target: Target, launch: Launch, *, command: str) -> str:
    """Trains what is missing, writes sweep.json, sweep.png and sweep.html into --out, with the `command` that
    was given, and returns the text for the terminal.

    Raises RecipeError, before anything is trained, if --out holds runs of another recipe or with other
    settings, or if a plan is rejected; and afterwards if too few batch sizes reached the loss for a curve.
    """
    points = trained(arms_of(path, overrides, target), target.batch_sizes, launch)
    return report(points, target, launch.out, command=command)


def arms_of(path: Path, overrides: Sequence[str], target: Target) -> list[GridArm]:
    """One for each rate. Raises RecipeError for a recipe whose rates stand in a table: none is its own."""
    recipe = load_recipe(path).with_overrides(overrides)
    if recipe.schedule.rule == "table":
        raise RecipeError(
            f"{path.stem} has a table of learning rates (schedule.rule=table): add schedule.rule=sqrt and "
            "schedule.base_lr=..., from which the rates of all batch sizes are taken"
        )
    train_examples = dataset_info(recipe.data).train_examples
    return [
        GridArm(
            f"rate{rate:g}",
            path,
            recipe,
            partial(_words_at, recipe, tuple(overrides), target, rate, train_examples),
        )
        for rate in target.rates
    ]


def _words_at(
    recipe: Recipe, overrides: tuple[str, ...], target: Target, rate: float, train_examples: int, size: int
) -> tuple[str, ...]:
    """A constant rate without a warm-up, and the noise scale measured in every second step."""
    steps = max(target.least_steps, round(target.epochs * train_examples / size))
    peak = rate * recipe.schedule.base_lr * (size / recipe.schedule.base_batch_size) ** 0.5
    return (
        *overrides,
        f"batch_size={size}",
        f"schedule.base_lr={peak}",
        "schedule.rule=none",
        "schedule.warmup=0ep",
        "schedule.decay=none",
        "schedule.batch_growth=",
        "schedule.image_sizes=",
        *(f"{key}={steps}it" for key in ("duration", "evaluate_every", "checkpoint.every")),
        f"log_every={max(1, LOG_EXAMPLES // size)}it",
        "measure.noise_scale=2it",
    )


def steps_to(run: Run, loss: float) -> float | None:
    """The middle of the first logged stretch whose average training loss is low enough; None if none is."""
    before = 0
    for row in run.rows("train"):
        if row["loss"] <= loss:
            return (before + int(row["step"])) / 2
        before = int(row["step"])
    return None


def report(points: Sequence[Point], target: Target, out: Path, *, command: str) -> str:
    """Writes sweep.json, sweep.png and sweep.html, and returns the text for the terminal."""
    best = [found for size in target.batch_sizes if (found := _best(points, target, size))]
    if len(best) < 3:
        raise RecipeError(
            f"the loss {target.loss} was reached at {len(best)} batch sizes only, and a curve needs 3: raise "
            "--loss or --epochs"
        )
    min_steps, min_examples = fit([each["batch_size"] for each in best], [each["steps"] for each in best])
    predicted, outcome = _prediction(best[len(best) // 2])
    origins = {
        origin_of(summary): {key: summary[key] for key in ("commit", "hardware", "versions")}
        for point in points
        for summary in point.summaries
    }
    data = {
        "question": {**vars(target), "seeds": len(points[0].jobs)},
        "command": command,
        "date": f"{datetime.date.today()}",
        "origins": list(origins.values()),
        "loss": target.loss,
        "points": [{key: value for key, value in each.items() if key != "runs"} for each in best],
        "measured": {
            "critical_batch": min_examples / min_steps,
            "min_steps": min_steps,
            "min_examples": min_examples,
        },
        "predicted": predicted,
    }
    lines = [
        f"measured: critical batch {min_examples / min_steps:,.0f}, fewest steps {min_steps:,.0f}, fewest "
        f"examples {min_examples:,.0f}",
        outcome,
    ]
    picture = chart.sweep_chart(data)
    origin = provenance_of(set(origins), command)
    page = pages.report("Steps to a loss over batch sizes", lines, [picture], [_table(best, target)], origin)
    write_whole(out / "sweep.json", json.dumps(data, indent=1) + "\n")
    write_whole(out / "sweep.html", page)
    return "\n".join([*lines, str(save([picture], out / "sweep.png")), str(out / "sweep.html")])


def _table(best: Sequence[dict[str, Any]], target: Target) -> Table:
    rows = [
        [
            f"{each['batch_size']}",
            f"{each['steps']:.0f}",
            f"{each['steps'] * each['batch_size']:,.0f}",
            f"x {each['rate']:g}",
        ]
        for each in best
    ]
    title = (
        f"Best of {len(target.rates)} rates: steps to a training loss of {target.loss}, mean of "
        f"{len(best[0]['each'])} seeds"
    )
    return Table(["batch", "steps", "examples", "rate"], rows, title=title, align="rrrr")


def _best(points: Sequence[Point], target: Target, size: int) -> dict[str, Any] | None:
    """The rate that needs the fewest steps, among those with which every seed got there."""
    found: list[dict[str, Any]] = []
    for rate, point in zip(target.rates, (each for each in points if each.batch_size == size), strict=True):
        runs = [Run(Path(job.run_dir)) for job in point.jobs]
        steps = [each for run in runs if (each := steps_to(run, target.loss)) is not None]
        if len(steps) == len(runs):
            mean = sum(steps) / len(steps)
            found.append({"batch_size": size, "rate": rate, "steps": mean, "each": steps, "runs": runs})
    return min(found, key=lambda each: each["steps"], default=None)


def fit(batches: Sequence[float], steps: Sequence[float]) -> tuple[float, float]:
    """(steps_min, examples_min) of steps = steps_min + examples_min / batch, least squares on logarithms."""
    from scipy.optimize import least_squares

    sizes, seen = np.array(batches, dtype=float), np.log(np.array(steps, dtype=float))
    start = np.log([min(steps), min(np.array(steps) * sizes)])
    found = least_squares(lambda logs: np.log(np.exp(logs[0]) + np.exp(logs[1]) / sizes) - seen, start).x
    return float(np.exp(found[0])), float(np.exp(found[1]))


def _prediction(best: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What the noise scale says, as data and as a sentence; no data where it says nothing.

    From the noise rows of all seeds of one point, each up to the loss; the measurements of one step weigh
    alike.
    """
    rows = [
        row
        for run, steps in zip(best["runs"], best["each"], strict=True)
        for row in run.rows("noise")
        if row["step"] <= steps
    ]
    rows.sort(key=lambda row: row["examples"])
    where = f"the noise scale of the run at batch {best['batch_size']}"
    try:
        predicted = advise(windows(rows))
    except RecipeError:
        return (
            None,
            f"{where} says no critical batch in its {len(rows)} measurements: more --seeds measure more",
        )
    low, high = predicted.critical_batch_interval
    end = "unbounded" if high is None else f"{high:,.0f}"
    outcome = f"{where} says {predicted.critical_batch:,.0f} ({low:,.0f} to {end})"
    return {**vars(predicted), "from_batch": best["batch_size"], "measurements": len(rows)}, outcome
