"""The points of a sweep as sweep.json records them: with a published one a sweep goes on when its runs are
gone, at further batch sizes, with further arms, or with more seeds.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import SAME_SCORE, as_text, differences, keys, written
from lbtrain.tasks import PrimaryMetric

from .arm import Curve, Scored
from .grid import GridArm, Point, without_names
from .jobs import Launch

Key = tuple[str, int]
"""The name of an arm, and a batch size."""


@dataclass(frozen=True)
class RecordedPoint(Scored):
    """One arm at one batch size over all seeds, from a row of sweep.json."""

    row: dict[str, Any]
    primary_metric: PrimaryMetric

    @classmethod
    def of(cls, point: Point, provenance: str) -> "RecordedPoint":
        recipes = [job.load() for job in point.jobs]
        more = {
            "recipe": point.recipe,
            "seeds": [recipe.seed for recipe in recipes],
            "settings": settings_of(recipes[0]),
            "train_error": [
                [epochs.tolist(), errors.round(2).tolist()] for epochs, errors in point.error_curves
            ],
            "provenance": provenance,
        }
        return cls(point.row() | more, point.primary_metric)

    @property
    def key(self) -> Key:
        return self.row["arm"], self.row["batch_size"]

    @property
    def arm(self) -> str:
        return self.key[0]

    @property
    def batch_size(self) -> int:
        return self.key[1]

    @property
    def scores(self) -> list[float]:  # type: ignore[override]
        return list(self.row[self.primary_metric.name])

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return int(self.row["evaluations"])

    @property
    def lost(self) -> int:
        return int(self.row["diverged"])

    @property
    def seeds(self) -> list[int]:
        """Of all runs; older rows do not have them, and are of the first ones."""
        return list(self.row.get("seeds", range(len(self.scores) + self.lost)))

    @property
    def error_curves(self) -> list[Curve]:
        """Training error by epoch; empty where the row has none."""
        return [(np.array(epochs), np.array(errors)) for epochs, errors in self.row.get("train_error", [])]

    def with_more_seeds(self, other: "RecordedPoint") -> "RecordedPoint":
        """The runs of both."""
        name, ours, theirs = self.primary_metric.name, self.row, other.row
        added = {key: ours[key] + theirs[key] for key in (name, "n", "diverged", "run_seconds")}
        added["seeds"] = self.seeds + other.seeds
        added["train_error"] = ours.get("train_error", []) + theirs["train_error"]
        added["provenance"] = f"{ours['provenance']} | {theirs['provenance']}"
        both = replace(self, row=ours | added)
        return replace(both, row=both.row | {"mean": both.mean, "std": both.std})


def settings_of(recipe: Recipe) -> dict[str, str]:
    """The keys that are not at their default and enter the score, without the seed and the table of
    rates, which may have got entries for further batch sizes (the peak rate is compared by itself).
    """
    left_out = SAME_SCORE | {"seed", "schedule.table"}
    changed = differences(Recipe(), without_names(recipe))
    return {key: as_text(new) for key, _, new in changed if key not in left_out}


def value_in(settings: Mapping[str, str], key: str) -> str:
    """Of one key of `settings_of`: what is not there has its default, which this version may not know."""
    known = any(name == key for name, _ in keys())
    return settings.get(key, written(Recipe(), key) if known else "the default")


def _of_score(overrides: Sequence[str]) -> list[str]:
    """Without such words as where the data lie."""
    return [word for word in overrides if word.partition("=")[0] not in SAME_SCORE]


def joined(published: Iterable[RecordedPoint], new: Iterable[RecordedPoint]) -> list[RecordedPoint]:
    """All points, the arms in the order in which they come, and of each the smallest batch first."""
    points: dict[Key, RecordedPoint] = {}
    for point in (*published, *new):
        before = points.get(point.key)
        points[point.key] = before.with_more_seeds(point) if before else point
    arms = list(dict.fromkeys(arm for arm, _ in points))
    return sorted(points.values(), key=lambda point: (arms.index(point.arm), point.batch_size))


def published_points(
    path: Path | None, arms: Sequence[GridArm], overrides: Sequence[str], launch: Launch
) -> dict[Key, RecordedPoint]:
    """The points of results/NAME.json; none without a path. Raises RecipeError where the file is no result of
    a sweep, and where a point is not what this sweep would measure: another arm, score, recipe or override,
    or other seeds than the first ones. Rows of earlier versions have no more of their recipe than the rate.
    """
    if path is None:
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"provenance": data["provenance"], **row} for row in data["rows"]]
        points = [_checked(row, data.get("overrides", []), arms, overrides, launch) for row in rows]
    except RecipeError as error:
        raise RecipeError(f"--continue-from {path}: {error}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(
            f"--continue-from {path} is no published sweep ({type(error).__name__}: {error}): name the "
            "results/NAME.json of one"
        ) from None
    return {point.key: point for point in points}


def _checked(
    row: Mapping[str, Any],
    before: list[str],
    arms: Sequence[GridArm],
    overrides: Sequence[str],
    launch: Launch,
) -> RecordedPoint:
    arm = next((arm for arm in arms if arm.name == row["arm"]), None)
    if arm is None:
        raise RecipeError(f"it has the arm {row['arm']}, and this sweep does not: name its recipe too")
    label = arm.primary_metric.label
    point = RecordedPoint({"label": label, "evaluations": 1, "recipe": "", **row}, arm.primary_metric)
    if point.row["label"] != label:
        raise RecipeError(f"it is scored by {point.row['label']}, and this sweep by {label}")
    at = f"{point.arm} at batch size {point.batch_size}"
    recipe = arm.recipe_at(point.batch_size)
    asked = {
        "overrides": (_of_score(before), _of_score(overrides)),
        "--evaluations": (point.evaluations, launch.evaluations),
        "peak learning rate": (f"{row['peak_lr']:.4g}", f"{peak_lr(recipe):.4g}"),
    }
    for what, (there, here) in asked.items():
        if there != here:
            raise RecipeError(f"{at} has other {what}: {there} there, {here} here")
    now = settings_of(recipe)
    then = row.get("settings", now)
    if changed := [key for key in then | now if then.get(key) != now.get(key)]:
        key = changed[0]
        values = f"{value_in(then, key)} there, {value_in(now, key)} here"
        raise RecipeError(f"{at} was measured with another recipe: {key} is {values}")
    if point.seeds != list(launch.seeds)[: len(point.seeds)]:
        raise RecipeError(
            f"{at} has the seeds {', '.join(map(str, point.seeds))}: use --first-seed {point.seeds[0]} "
            f"--seeds {len(point.seeds)} or more"
        )
    return point
