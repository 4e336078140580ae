"""A grid of runs: ways of training (arms) by batch sizes by seeds, whatever they are then scored by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.recipe.files import load_recipe, shipped
from lbtrain.recipe.schema import SAME_SCORE, differences
from lbtrain.runs.directory import RunDirectory
from lbtrain.tasks import PrimaryMetric, primary_metric_of

from .arm import PLAN, SUMMARY, Curve, Scored, error_curves_of, logged, score_of, steps_of
from .jobs import Job, Launch


@dataclass(frozen=True)
class GridArm:
    """A way of training: a recipe file, and the words that make it a run of this arm at a batch size (its
    seed aside).
    """

    name: str
    path: Path
    recipe: Recipe
    words_at: Callable[[int], tuple[str, ...]]

    @property
    def folder(self) -> str:
        """Of its runs, in --out."""
        return self.name.replace(" ", "")

    @property
    def primary_metric(self) -> PrimaryMetric:
        return primary_metric_of(self.recipe)

    def recipe_at(self, batch_size: int) -> Recipe:
        return self.recipe.with_overrides(self.words_at(batch_size))

    def has_rate_at(self, batch_size: int) -> bool:
        """Whether its table of learning rates, if it has one, knows this batch size."""
        rate = self.recipe.schedule
        return rate.rule != "table" or batch_size in {entry.batch_size for entry in rate.table}


def check_rates_follow_a_rule(path: Path, recipe: Recipe) -> None:
    """Raises RecipeError for a recipe whose rates stand in a table: other batch sizes have none from it."""
    if recipe.schedule.rule == "table":
        raise RecipeError(
            f"{path.stem} has a table of learning rates (schedule.rule=table): add schedule.rule=sqrt and "
            "schedule.base_lr=..., from which the rates of all batch sizes are taken"
        )


@dataclass(frozen=True)
class Point(Scored):
    """One arm at one batch size over all seeds."""

    arm: str
    batch_size: int
    jobs: tuple[Job, ...]
    primary_metric: PrimaryMetric
    recipe: str = ""
    """The shipped recipe that this point is, if there is one."""
    evaluations: int = 1

    @cached_property
    def ended(self) -> list[Path]:
        """The directories of the runs that did not diverge."""
        folders = [Path(job.run_dir) for job in self.jobs]
        return [folder for folder in folders if (folder / "summary.json").exists()]

    @cached_property
    def summaries(self) -> list[dict[str, Any]]:
        return [RunDirectory(folder).read("summary.json", SUMMARY) for folder in self.ended]

    @cached_property
    def scores(self) -> list[float]:  # type: ignore[override]
        """Of the primary metric, in percent, one per run that did not diverge."""
        runs = zip(self.ended, self.rows, strict=True)
        return [score_of(folder, self.primary_metric, self.evaluations, rows) for folder, rows in runs]

    @cached_property
    def rows(self) -> list[list[dict[str, Any]]]:
        """What each run that did not diverge has logged."""
        return [logged(folder) for folder in self.ended]

    @property
    def error_curves(self) -> list[Curve]:
        return error_curves_of(self.rows)

    @property
    def lost(self) -> int:
        return len(self.jobs) - len(self.summaries)

    def row(self) -> dict[str, Any]:
        plan = RunDirectory(Path(self.jobs[0].run_dir)).read("plan.json", PLAN)
        return {
            "arm": self.arm,
            "batch_size": self.batch_size,
            "steps": steps_of(plan, self.summaries),
            "peak_lr": plan["learning_rate"]["peak"],
            "mean": self.mean,
            "std": self.std,
            "n": len(self.scores),
            "diverged": self.lost,
            "label": self.primary_metric.label,
            "evaluations": self.evaluations,
            self.primary_metric.name: self.scores,
            "run_seconds": sum(summary["seconds"] for summary in self.summaries),
        }


def batch_sizes_of(text: str) -> list[int]:
    """Of an option, each once, the smallest first. Raises RecipeError."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise RecipeError(f"--batch-sizes {text}: write batch sizes such as 2,8,32,128,720")
    return sorted({int(part) for part in parts})


def points_of(
    arms: Sequence[GridArm],
    batch_sizes: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    evaluations: int = 1,
) -> list[Point]:
    """One point per arm and batch size at which the arm has a rate; arms whose recipes are equal there share
    the runs of the first.
    """
    jobs: dict[str, tuple[Job, ...]] = {}
    points = []
    for batch_size in batch_sizes:
        for arm in (arm for arm in arms if arm.has_rate_at(batch_size)):
            folder, words = out / arm.folder / f"batch{batch_size}", arm.words_at(batch_size)
            new = tuple(
                Job(str(arm.path), (*words, f"seed={seed}"), str(folder / f"seed{seed}")) for seed in seeds
            )
            recipe = arm.recipe_at(batch_size)
            own = jobs.setdefault(without_names(recipe).to_yaml(), new)
            shipped_as = _shipped_as(recipe)
            points.append(Point(arm.name, batch_size, own, arm.primary_metric, shipped_as, evaluations))
    return points


def without_names(recipe: Recipe) -> Recipe:
    """What a run computes: the rule's name does not matter where it gives the same rate."""
    rate = recipe.schedule
    at_base = recipe.batch_size == rate.base_batch_size and rate.rule != "table"
    return recipe.vary(schedule=dict(rule="none")) if at_base else recipe


def _shipped_as(recipe: Recipe) -> str:
    """The name of the shipped recipe that this one is, up to keys that do not enter the mathematics; empty if
    there is none.
    """
    plain = without_names(recipe)
    for name, each in _shipped_recipes().items():
        if all(key in SAME_SCORE for key, _, _ in differences(each, plain)):
            return name
    return ""


@cache
def _shipped_recipes() -> dict[str, Recipe]:
    return {path.stem: without_names(load_recipe(path)) for path in shipped().values()}


def in_order(points: Sequence[Point]) -> list[Job]:
    """Every job once, the large batches first: they are quick, and a sweep that is stopped early has whole
    points, with all their seeds.
    """
    by_batch = sorted(points, key=lambda point: -point.batch_size)
    return list({job.run_dir: job for point in by_batch for job in point.jobs}.values())


def trained(
    arms: Sequence[GridArm],
    batch_sizes: Sequence[int],
    launch: Launch,
    known: Mapping[tuple[str, int], int] | None = None,
) -> list[Point]:
    """The points of a grid, after what is missing of them has been trained (`Launch.train`). `known`: of how
    many seeds, the first ones, an arm's result at a batch size is known; these are neither trained nor
    returned.
    """
    points = []
    for point in points_of(arms, batch_sizes, launch.seeds, launch.out, launch.evaluations):
        jobs = point.jobs[(known or {}).get((point.arm, point.batch_size), 0) :]
        points += [replace(point, jobs=jobs)] if jobs else []
    launch.train(in_order(points))
    return points
