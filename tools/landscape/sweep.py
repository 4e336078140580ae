"""`sweep RECIPE`: steps to a goal at many batch sizes, measured, against what the noise scale of one of the
runs says.

A goal is a training loss (McCandlish et al. 2018, section 3) or an error on the validation images (Shallue et
al. 2019, section 3). At each batch the rate is constant and the best of several; steps = steps_min +
examples_min / batch is fitted to the best ones in logarithms. The prediction comes from the run at the batch
nearest to the middle, up to the same goal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe

from ..kit.tables import Table
from ..study.arm import origin_of
from ..study.grid import GridArm, Point, check_rates_follow_a_rule, trained
from ..study.jobs import Launch
from ..study.report import provenance_of, write_result
from . import chart
from .noise import advise, interval_text, size_text, windows
from .runs import Run

LOG_EXAMPLES = 256
EVALUATIONS = 2
"""In an epoch, where the goal is an error."""
FEWEST_SIZES = 3
"""Batch sizes that reach a goal, of which a curve is made."""
FAR = 1e8
"""How many times beyond the batch sizes a critical batch is looked for; there no bend can show."""
SAME = 1e-3
"""By how much of the steps a curve may be off and be as good as an exact one: steps are whole numbers."""


@dataclass(frozen=True)
class Goal:
    """A training loss, averaged over about `LOG_EXAMPLES` examples, or a top-1 error in percent."""

    metric: Literal["loss", "top1_error"]
    value: float

    def __str__(self) -> str:
        return (
            f"a training loss of {self.value:g}"
            if self.metric == "loss"
            else f"a top-1 error of {self.value:g} %"
        )

    def steps(self, run: Run) -> float | None:
        """The steps of `run` until it was reached; None if it was not.

        A loss is reached in the middle of the first logged stretch whose average is low enough, an error on
        the line between the first evaluation that is low enough and the one before.
        """
        if self.metric == "loss":
            return steps_to(run, self.value)
        before, error_before = 0, 0.0
        for row in run.rows("eval"):
            step, error = int(row["step"]), float(row[self.metric])
            if error <= self.value:
                rest = (error_before - self.value) / (error_before - error) if before else 1.0
                return before + rest * (step - before)
            before, error_before = step, error
        return None


@dataclass(frozen=True)
class Target:
    """What is measured: the steps to each of `goals`, which are of one metric. A run lasts `epochs` or
    `least_steps`, whichever is longer, or until an evaluation is at the lowest error.
    """

    batch_sizes: tuple[int, ...]
    rates: tuple[float, ...]
    """Factors on the peak rate that the recipe has at its own batch, scaled with the square root of the
    batch.
    """
    goals: tuple[Goal, ...]
    epochs: float
    least_steps: int


def sweep(
    path: Path, overrides: Sequence[str], target: Target, launch: Launch, *, title: str, command: str
) -> str:
    """Trains what is missing, writes the report into --out, with the `command` that was given, and returns
    its text for the terminal.

    Raises RecipeError, before anything is trained, for too few batch sizes and for rates that are alike, if
    --out holds runs of another recipe or with other settings, or if a plan is rejected; and afterwards if too
    few batch sizes reached a goal for a curve.
    """
    check_target(target)
    points = trained(arms_of(path, overrides, target), target.batch_sizes, launch)
    return report(points, target, launch.out, title=title, command=command)


def check_target(target: Target) -> None:
    """Raises RecipeError for batch sizes of which no curve can be made, and for rates whose runs would be in
    one folder.
    """
    if len(target.batch_sizes) < FEWEST_SIZES:
        raise RecipeError(
            f"--batch-sizes {','.join(map(str, target.batch_sizes))}: a curve needs {FEWEST_SIZES} batch "
            "sizes that reach the goal. Add some."
        )
    names = [_named(rate) for rate in target.rates]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError(
            f"--rates {','.join(map(str, target.rates))}: {min(twice)} is there twice (in six digits). Leave "
            "one out."
        )


def _named(rate: float) -> str:
    """As the folder of its runs has it."""
    return f"{rate:g}"


def arms_of(path: Path, overrides: Sequence[str], target: Target) -> list[GridArm]:
    """One for each rate. Raises RecipeError for a recipe whose rates stand in a table: none is its own."""
    recipe = load_recipe(path).with_overrides(overrides)
    check_rates_follow_a_rule(path, recipe)
    train_examples = dataset_info(recipe.data).train_examples
    return [
        GridArm(
            f"rate{_named(rate)}",
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
    peak = rate * peak_lr(recipe) * (size / recipe.batch_size) ** 0.5
    lowest = min(target.goals, key=lambda goal: goal.value)
    evaluated, stop = steps, ""
    if lowest.metric != "loss":
        evaluated = max(1, round(train_examples / size / EVALUATIONS))
        stop = f"{lowest.metric}<={lowest.value:g}"
    return (
        *overrides,
        f"batch_size={size}",
        f"schedule.base_lr={peak}",
        "schedule.rule=none",
        "schedule.base_momentum=null",  # which is in the peak rate already
        "schedule.warmup=0ep",
        "schedule.decay=none",
        "absa.max_batch_size=0",
        "schedule.batch_growth=",
        "schedule.image_sizes=",
        *(f"{key}={steps}it" for key in ("duration", "checkpoint.every")),
        f"evaluate_every={evaluated}it",
        f"stop_at={stop}",
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


def report(points: Sequence[Point], target: Target, out: Path, *, title: str, command: str) -> str:
    """Writes steps.md, .json, .png and .html, and returns the text for the terminal. Raises RecipeError where
    too few batch sizes reached any of the goals.
    """
    runs = {
        size: [[Run(Path(job.run_dir)) for job in each.jobs] for each in points if each.batch_size == size]
        for size in target.batch_sizes
    }
    curves, lines, rows = [], [], []
    for goal in target.goals:
        best = [found for size, own in runs.items() if (found := _best(goal, size, target.rates, own))]
        if len(best) < FEWEST_SIZES:
            reached = f"{goal} was reached at {len(best)} batch sizes"
            lines.append(f"{reached}, and a curve needs {FEWEST_SIZES}")
            continue
        measured, (predicted, said) = fit(best), _prediction(best[len(best) // 2])
        lines += [f"{goal}: {_measured(measured)}; {said}", *_edges(best, target, goal)]
        rows += [_row(goal, each) for each in best]
        curves.append(
            {
                "goal": f"{goal}",
                "value": goal.value,
                "points": [{key: value for key, value in each.items() if key != "runs"} for each in best],
                "measured": measured,
                "predicted": predicted,
            }
        )
    if not curves:
        raise RecipeError(f"{'; '.join(lines)}: choose an easier goal, or raise --epochs")
    summaries = [summary for point in points for summary in point.summaries]
    data = {
        "title": title,
        "command": command,
        "overrides": [],
        "question": vars(target)
        | {"goals": [f"{goal}" for goal in target.goals], "seeds": len(points[0].jobs)},
        "goals": curves,
        "outcomes": lines,
        "provenance": provenance_of({origin_of(summary) for summary in summaries}, command),
    }
    head = ["to", "batch", "steps (each seed)", "examples", "rate"]
    pictures = [chart.sweep_chart(curve) for curve in curves]
    return write_result(out, "steps", title, data, pictures, [Table(head, rows, align="lrlrr")])


def _measured(found: dict[str, Any]) -> str:
    low, high = found["critical_batch_interval"]
    if low and high:
        return (
            f"measured critical batch {found['critical_batch']:,.0f} (95%: {interval_text(low, high)}), "
            f"fewest steps {found['min_steps']:,.0f}, fewest examples {found['min_examples']:,.0f}"
        )
    if not (low or high):
        return "the steps do not bound the critical batch: measure more --seeds, or further --batch-sizes"
    missing = "larger" if low else "smaller"
    return (
        f"measured critical batch {interval_text(low, high)} (95%), as no bend shows for certain: measure "
        f"{missing} --batch-sizes, or more --seeds"
    )


def _edges(best: Sequence[dict[str, Any]], target: Target, goal: Goal) -> list[str]:
    """Where the best rate may lie outside of those that were tried."""
    found = []
    for rate, word in ((min(target.rates), "smaller"), (max(target.rates), "larger")):
        if sizes := [f"{each['batch_size']:,}" for each in best if each["rate"] == rate]:
            where = f"{goal}: at batch {', '.join(sizes)}"
            found.append(f"{where} no {word} rate than the best was tried: widen --rates")
    return found


def _row(goal: Goal, best: dict[str, Any]) -> list[str]:
    return [
        f"{goal}",
        f"{best['batch_size']:,}",
        f"{best['steps']:,.1f} ({', '.join(f'{steps:,.1f}' for steps in best['each'])})",
        f"{best['steps'] * best['batch_size']:,.0f}",
        f"x {best['rate']:g}",
    ]


def _best(goal: Goal, size: int, rates: Sequence[float], tried: Sequence[list[Run]]) -> dict[str, Any] | None:
    """The rate that needs the fewest steps, among those with which every seed got there. `tried`: the runs
    with each of the rates.
    """
    found: list[dict[str, Any]] = []
    for rate, runs in zip(rates, tried, strict=True):
        steps = [each for run in runs if (each := goal.steps(run)) is not None]
        if len(steps) == len(runs):
            mean = sum(steps) / len(steps)
            found.append({"batch_size": size, "rate": rate, "steps": mean, "each": steps, "runs": runs})
    return min(found, key=lambda each: each["steps"], default=None)


def fit(best: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """steps_min and examples_min of steps = steps_min + examples_min / batch, by least squares on the
    logarithms of every seed's steps, and the critical batch, which is their ratio.

    Its interval of 95% holds every critical batch whose best curve is not much worse than the best of all, by
    Student's t: it is for the best rates as they were found. An end of 0 or None is not bounded by the
    measurements; then no critical batch is given, and the minima only draw the curve that fits best.
    """
    from scipy.optimize import minimize_scalar

    sizes = np.array([each["batch_size"] for each in best for _ in each["each"]], dtype=float)
    steps = np.array([steps for each in best for steps in each["each"]], dtype=float)

    def min_steps(log: float) -> Any:
        """By each measurement, in logarithms."""
        return np.log(steps) - np.log1p(np.exp(log) / sizes)

    def squares(log: float) -> float:
        return len(steps) * float(np.var(min_steps(log)))

    logs = np.linspace(np.log(sizes.min() / FAR), np.log(sizes.max() * FAR), 2001)
    nearest = int(np.argmin([squares(log) for log in logs]))
    bounds = logs[max(nearest - 1, 0)], logs[min(nearest + 1, len(logs) - 1)]
    middle = float(minimize_scalar(squares, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    freedom = len(steps) - 2
    worst = squares(middle) * (1 + float(stdtrit(freedom, 0.975)) ** 2 / freedom) + SAME**2 * len(steps)
    low = _crossing(squares, worst, [*logs[logs < middle], middle])
    high = _crossing(squares, worst, [*logs[logs > middle][::-1], middle])
    critical, fewest = float(np.exp(middle)), float(np.exp(np.mean(min_steps(middle))))
    return {
        "critical_batch": critical if low and high else None,
        "critical_batch_interval": (low or 0.0, high),
        "min_steps": fewest,
        "min_examples": critical * fewest,
    }


def _crossing(squares: Callable[[float], float], worst: float, logs: Sequence[float]) -> float | None:
    """The first critical batch, of those whose logarithms are given, that is not worse than `worst`; None
    where already the first one is not.
    """
    from scipy.optimize import brentq

    first = next(number for number, log in enumerate(logs) if squares(log) <= worst)
    if first == 0:
        return None
    return float(np.exp(brentq(lambda log: squares(log) - worst, logs[first - 1], logs[first])))


def _prediction(best: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What the noise scale says, as data and as a sentence; no data where it says nothing.

    From the noise rows of all seeds of one point, each up to the goal; the measurements of one step weigh
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
    interval = interval_text(*predicted.critical_batch_interval)
    outcome = f"{where} says {size_text(predicted.critical_batch)} (95%: {interval})"
    return {**vars(predicted), "from_batch": best["batch_size"], "measurements": len(rows)}, outcome
