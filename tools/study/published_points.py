"""The points of a sweep whose runs are elsewhere, as its published result has them, for a sweep that goes on
from there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.tasks import PrimaryMetric

from .arm import Curve, Scored
from .grid import GridArm
from .jobs import Launch


@dataclass(frozen=True)
class PublishedPoint(Scored):
    """One arm at one batch size over all seeds, from a row of sweep.json."""

    entry: dict[str, Any]
    primary_metric: PrimaryMetric

    @property
    def arm(self) -> str:
        return str(self.entry["arm"])

    @property
    def batch_size(self) -> int:
        return int(self.entry["batch_size"])

    @property
    def scores(self) -> list[float]:  # type: ignore[override]
        return list(self.entry[self.primary_metric.name])

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return int(self.entry["evaluations"])

    @property
    def lost(self) -> int:
        return int(self.entry["diverged"])

    @property
    def error_curves(self) -> list[Curve]:
        """Training error by epoch; empty where the row has none."""
        return [(np.array(epochs), np.array(errors)) for epochs, errors in self.entry.get("train_error", [])]


def published_points(
    path: Path | None, arms: Sequence[GridArm], overrides: Sequence[str], launch: Launch
) -> dict[tuple[str, int], PublishedPoint]:
    """The points of results/NAME.json by arm and batch size; none without a path. Raises RecipeError where
    the file is no result of a sweep, and where a point is not what this sweep would measure: another arm,
    score, number of seeds, rate or override.
    """
    if path is None:
        return {}
    try:
        data = json.loads(path.read_text())
        rows = [{"provenance": data["provenance"], **row} for row in data["rows"]]
        before = data["overrides"]
        return {
            (row["arm"], row["batch_size"]): _checked(row, before, arms, overrides, launch) for row in rows
        }
    except RecipeError as error:
        raise RecipeError(f"--continue-from {path}: {error}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(
            f"--continue-from {path} is no published sweep ({type(error).__name__}: {error}): name the "
            "results/NAME.json of one"
        ) from None


def _checked(
    row: dict[str, Any],
    before: list[str],
    arms: Sequence[GridArm],
    overrides: Sequence[str],
    launch: Launch,
) -> PublishedPoint:
    arm = next((arm for arm in arms if arm.name == row["arm"]), None)
    if arm is None:
        raise RecipeError(f"it has the arm {row['arm']}, and this sweep does not: name its recipe too")
    at = f"{row['arm']} at batch size {row['batch_size']}"
    metric, recipe = arm.primary_metric, arm.recipe_at(row["batch_size"])
    asked = {
        "overrides": (before, list(overrides)),
        "score": (row["label"], metric.label),
        "--seeds": (row["n"] + row["diverged"], len(launch.seeds)),
        "--evaluations": (row["evaluations"], launch.evaluations),
        "peak learning rate": (f"{row['peak_lr']:.4g}", f"{peak_lr(recipe):.4g}"),
    }
    for what, (there, here) in asked.items():
        if there != here:
            raise RecipeError(f"{at} has other {what}: {there} there, {here} here")
    return PublishedPoint(row, metric)
