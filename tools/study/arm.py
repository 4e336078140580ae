"""The runs of one recipe over all seeds, read from their run directories alone."""

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from lbtrain.data.splits import NO_VALIDATION
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import RECIPES, docstring_of
from lbtrain.recipe.findings import Finding
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.rows import read_rows
from lbtrain.tasks import PrimaryMetric, primary_metric_of

from ..scaling_report.stragglers import Waits

Curve = tuple[Any, Any]
"""Epochs, and a value at each."""

NUMBER = (int, float)
ORIGIN = {"commit": str, "hardware": str, "versions": dict}
SUMMARY = {**ORIGIN, "seconds": NUMBER, "step": NUMBER}
PLAN = {"total_steps": NUMBER, "learning_rate": {"peak": NUMBER}}
"""What is read of each run, for `RunDirectory.read`."""


class Scored:
    """Runs of one kind with several seeds: their scores in percent, and how many have none."""

    scores: list[float]
    primary_metric: PrimaryMetric
    evaluations: int
    """The score of a run is the median of so many evaluations, its last ones."""

    @property
    def label(self) -> str:
        """What the scores are, for a table or an axis."""
        of = f", median of the last {self.evaluations} evaluations" if self.evaluations > 1 else ""
        return self.primary_metric.label + of

    @property
    def lost(self) -> int:
        """The runs that diverged."""
        raise NotImplementedError

    @property
    def mean(self) -> float | None:
        """Of the runs that ended; None if all diverged."""
        return statistics.mean(self.scores) if self.scores else None

    @property
    def std(self) -> float:
        """Of one run."""
        return deviation(self.scores)

    @property
    def spread(self) -> tuple[float, int]:
        """The deviation of one run, and of how many runs it is."""
        return self.std, len(self.scores)

    @property
    def cell(self) -> str:
        """Mean and standard deviation of a run, for a table; one run has none to show."""
        if self.mean is None:
            return "diverged"
        spread = f" ± {self.std:.2f}" if len(self.scores) > 1 else ""
        return f"{self.mean:.2f}{spread}{self.losses}"

    @property
    def losses(self) -> str:
        """How many runs diverged, to stand behind a name or a number; empty where none did."""
        return f" ({self.lost} of {len(self.scores) + self.lost} diverged)" if self.lost else ""


def score_metric_of(recipe: Recipe) -> PrimaryMetric:
    """What runs of `recipe` are scored by. Raises RecipeError where they have no score."""
    if recipe.data.validation_root == NO_VALIDATION:
        raise RecipeError(
            "data.validation_root=none: runs that are not evaluated have no score to compare. Name "
            "validation images there, or set data.validation_share=0.1"
        )
    return primary_metric_of(recipe)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a run (n - 1 in the denominator); 0 for a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def interval_of(*spreads: tuple[float, int], comparisons: int = 1) -> float | None:
    """Half the 95% confidence interval of a difference of two means (Welch's t), each with the deviation of a
    run and the number of runs; None where the spread is unknown: one of them is of a single run, or on either
    side all runs have one score, as few seeds on few images may. Of several `comparisons` the intervals hold
    together (Bonferroni).
    """
    squares = [std**2 / n for std, n in spreads]
    if min(n for _, n in spreads) < 2 or not (total := sum(squares)):
        return None
    freedom = total**2 / sum(square**2 / (n - 1) for square, (_, n) in zip(squares, spreads, strict=True))
    return float(stdtrit(freedom, 1 - 0.025 / comparisons) * total**0.5)


@dataclass(frozen=True)
class Arm(Scored):
    """One recipe over all seeds. Scores in percent; curves of the runs that ended, one per seed."""

    name: str
    title: str
    batch_size: int
    peak_lr: float
    steps: int
    epochs: float
    primary_metric: PrimaryMetric
    scores: list[float]
    """Of the primary metric, one per run that ended."""
    diverged: list[float]
    """The epoch that each of the other runs had come to."""
    seconds: list[float]
    loss_curves: list[Curve]
    error_curves: list[Curve]
    """Training error by epoch; empty where the runs have none."""
    score_curves: list[Curve]
    waits: list[Waits]
    """For the slowest rank, of each run on several ranks."""
    origins: set[str]
    """Commit, hardware and versions of the runs, as they wrote them; one unless a study was continued
    elsewhere or later.
    """
    evaluations: int = 1
    finding: Finding | None = None
    shipped: bool = False
    """Whether its recipe is one of lbtrain's, and not a user's of the same name."""

    @classmethod
    def read(
        cls,
        recipe: Path,
        out: Path,
        seeds: list[int],
        primary_metric: PrimaryMetric,
        evaluations: int = 1,
        finding: Finding | None = None,
    ) -> "Arm":
        folders = [out / recipe.stem / f"seed{seed}" for seed in seeds]
        ended = [folder for folder in folders if (folder / "summary.json").exists()]
        summaries = [RunDirectory(folder).read("summary.json", SUMMARY) for folder in ended]
        counts = dict.fromkeys(("batch_size", "total_examples", "train_examples"), NUMBER)
        plan = RunDirectory(folders[0]).read("plan.json", PLAN | counts)
        rows = [logged(folder) for folder in ended]
        return cls(
            name=recipe.stem,
            title=" ".join((docstring_of(recipe) or recipe.stem).partition("\n\n")[0].split()),
            batch_size=plan["batch_size"],
            peak_lr=plan["learning_rate"]["peak"],
            steps=steps_of(plan, summaries),
            epochs=plan["total_examples"] / plan["train_examples"],
            primary_metric=primary_metric,
            scores=[
                score_of(folder, primary_metric, evaluations, run)
                for folder, run in zip(ended, rows, strict=True)
            ],
            diverged=[
                max((row["epoch"] for row in logged(folder)), default=0.0)
                for folder in folders
                if folder not in ended
            ],
            seconds=[summary["seconds"] for summary in summaries],
            loss_curves=_curves(rows, "train", "loss"),
            error_curves=error_curves_of(rows),
            score_curves=_curves(rows, "eval", primary_metric.name),
            waits=_waits(ended, rows),
            origins={origin_of(summary) for summary in summaries},
            evaluations=evaluations,
            finding=finding,
            shipped=recipe.resolve().is_relative_to(RECIPES.resolve()),
        )

    @property
    def lost(self) -> int:
        return len(self.diverged)


def steps_of(plan: dict[str, Any], summaries: Sequence[dict[str, Any]]) -> int:
    """Of a run that ended, on average: the plan knows an upper bound only where the run decides (ABSA,
    stop_at). That bound where none ended.
    """
    made = [summary["step"] for summary in summaries]
    return round(statistics.mean(made)) if made else int(plan["total_steps"])


def logged(folder: Path) -> list[dict[str, Any]]:
    """What the run logged of training and evaluations. A run may diverge before it logs anything."""
    rows, note = read_rows(folder / "metrics.jsonl")
    if note:
        print(note, file=sys.stderr)
    return [row for row in rows if row["kind"] in ("train", "eval")]


def score_of(
    folder: Path, primary_metric: PrimaryMetric, evaluations: int, rows: list[dict[str, Any]]
) -> float:
    """Of a run that ended: the median over its last evaluations (Goyal et al. 2017, section 5.1, takes 5), or
    what its summary says of the last one. `rows`: what it logged. Raises RecipeError for a run with fewer
    evaluations.
    """
    if evaluations == 1:
        return float(
            RunDirectory(folder).read("summary.json", {primary_metric.name: NUMBER})[primary_metric.name]
        )
    found = [row[primary_metric.name] for row in rows if row["kind"] == "eval"]
    if len(found) < evaluations:
        raise RecipeError(
            f"{folder} has {len(found)} evaluations: use --evaluations {max(1, len(found))} or less, or "
            "train with a shorter evaluate_every in another --out"
        )
    return statistics.median(found[-evaluations:])


def _by_epoch(rows: list[dict[str, Any]], value: str) -> Curve | None:
    """Means over the rows whose middle lies in each epoch, weighted by the examples of each row; None without
    them. The last step of a run may end a little after its last epoch.
    """
    sums: dict[int, Any] = {}
    seen, before = 0, 0.0
    for row in rows:
        if row["kind"] == "train" and row.get(value) is not None:
            epoch = math.ceil((before + row["epoch"]) / 2)
            sums[epoch] = sums.get(epoch, 0) + np.array([row[value], 1]) * (row["examples"] - seen)
            seen, before = row["examples"], row["epoch"]
    return (np.array([*sums]), np.array([total / of for total, of in sums.values()])) if sums else None


def error_curves_of(runs: list[list[dict[str, Any]]]) -> list[Curve]:
    """Training error by epoch of the runs that have logged it."""
    return [curve for rows in runs if (curve := _by_epoch(rows, "train_error"))]


def _waits(folders: list[Path], runs: list[list[dict[str, Any]]]) -> list[Waits]:
    named = (
        Waits.of(f"{folder.parent.name} {folder.name}", rows)
        for folder, rows in zip(folders, runs, strict=True)
    )
    return [waits for waits in named if waits]


def _curves(runs: list[list[dict[str, Any]]], kind: str, value: str) -> list[Curve]:
    """Of the runs that have such rows: the file may be gone, and the score is that of the summary."""
    picked = [[row for row in rows if row["kind"] == kind] for rows in runs]
    return [
        (np.array([row["epoch"] for row in rows]), np.array([row[value] for row in rows]))
        for rows in picked
        if rows
    ]


def origin_of(summary: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return f"commit {summary['commit']} on {summary['hardware']}; {versions}"
