"""`sweep RECIPE`: steps to a goal at many batch sizes, measured, against what the noise scale of one of the
runs says.

A goal is a training loss (McCandlish et al. 2018, section 3) or an error on the validation images (Shallue et
al. 2019, section 3). At each batch the rate is constant and the best of several; steps = steps_min +
examples_min / batch is fitted to the best ones in logarithms. The prediction comes from the run at the batch
nearest to the middle, up to the same goal.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe

from ..study.grid import GridArm, check_rates_follow_a_rule, trained
from ..study.jobs import Launch
from .goals import FEWEST_SIZES, LOG_EXAMPLES, Target
from .sweep_report import report

EVALUATIONS = 2
"""In an epoch, where the goal is an error."""


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
