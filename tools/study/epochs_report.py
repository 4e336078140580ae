"""The report of epochs and steps to the same score: table, curves over the batch size and a page."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lbtrain.errors import RecipeError

from ..kit.charts import COLOURS, Chart, batch_axis, ink, look, mean_curve, tidy
from ..kit.tables import Table
from .curves import looks_of
from .epochs_series import Needed, Series, changes, read_series
from .report import write_result


@dataclass(frozen=True)
class Goal:
    """A score, and what each series needs for it, the smallest batch first."""

    score: float
    needed: tuple[tuple[Series, Needed | None], ...]

    @cached_property
    def best(self) -> list[tuple[Series, Needed]]:
        """At each batch size that has it between two durations, the arm with the fewest epochs."""
        known = [(series, needed) for series, needed in self.needed if needed]
        by_size = itertools.groupby(known, key=lambda each: each[0].batch_size)
        return [min(group, key=lambda each: each[1].value) for _, group in by_size]

    def outcomes(self, label: str) -> list[str]:
        """What a larger batch costs in epochs and saves in steps, in sentences."""
        goal = f"{label} of {self.score:g} %"
        if not self.best:
            return [f"{goal}: no batch size has it between two durations; choose --scores between them"]
        (small, base), *others = self.best
        lines = []
        for series, needed in others:
            ratio, fewer = needed.over(base), small.steps(base.value) / series.steps(needed.value)
            lines.append(
                f"{goal}: batch {series.batch_size:,} ({series.arm}) needs {ratio.value:.2f} times the "
                f"epochs of batch {small.batch_size:,}{ratio.interval(2)}, in {fewer:.1f} times fewer steps"
            )
        return lines

    def rows(self) -> list[list[str]]:
        return [
            [
                f"{self.score:g}",
                f"{series.batch_size:,}",
                series.arm,
                f"{needed.value:.1f}{needed.interval(1)}" if needed else series.outside(self.score),
                f"{series.steps(needed.value):,.0f}" if needed else "-",
            ]
            for series, needed in self.needed
        ]

    def as_data(self) -> dict[str, Any]:
        points = [
            {
                "arm": series.arm,
                "batch_size": series.batch_size,
                "epochs": needed.value,
                "epochs_interval": [needed.low, needed.high and _or_none(needed.high)],
                "steps": series.steps(needed.value),
            }
            for series, needed in self.needed
            if needed
        ]
        return {"score": self.score, "points": points}


def _or_none(value: float) -> float | None:
    """JSON has no infinite numbers."""
    return value if math.isfinite(value) else None


def report(paths: Sequence[Path], scores: Sequence[float], out: Path, *, title: str, command: str) -> str:
    """Writes epochs.md, .json, .png and .html, and returns the text for the terminal. Raises RecipeError
    where no series has two durations.
    """
    read, label = read_series(paths)
    series = [each for each in read if len(each.trained) > 1]
    if not series:
        raise RecipeError("no arm has one batch size in two of these sweeps: name sweeps of other durations")
    goals = [Goal(score, tuple((each, each.needed(score)) for each in series)) for score in scores]
    data = {
        "title": title,
        "command": command,
        "overrides": [],
        "label": label,
        "series": [
            {"arm": each.arm, "batch_size": each.batch_size, "trained": [vars(run) for run in each.trained]}
            for each in series
        ],
        "goals": [goal.as_data() for goal in goals],
        "outcomes": [
            *(line for goal in goals for line in goal.outcomes(label)),
            *(line for each in series for line in changes(each)),
        ],
        "provenance": f"{command}; {date.today()}; of these sweeps",
    }
    head = [f"{label} %", "batch", "arm", "epochs", "steps"]
    table = Table(head, [row for goal in goals for row in goal.rows()], align="rrllr")
    return write_result(out, "epochs", title, data, charts_of(series, goals, label), [table])


def charts_of(series: Sequence[Series], goals: Sequence[Goal], label: str) -> list[Chart]:
    named = ", ".join(each.name for each in series)
    values = ", ".join(f"{goal.score:g}" for goal in goals)
    return [
        Chart(
            "What runs of each length reach",
            f"{label} against the epochs of a run, one line for each of {named}.",
            partial(_draw_scores, series=series, goals=goals, label=label),
            width=6,
        ),
        Chart(
            f"Epochs to the same {label}",
            f"Epochs against batch size, one line for each {label} of {values} %.",
            partial(_draw_needed, goals=goals, label=label),
        ),
        Chart(
            f"Steps to the same {label}",
            f"Steps against batch size, one line for each {label} of {values} %; dashed, the same epochs.",
            partial(_draw_needed, goals=goals, label=label, of_steps=True),
        ),
    ]


def _draw_scores(axes: Axes, series: Sequence[Series], goals: Sequence[Goal], label: str) -> None:
    looks, taken = looks_of([each.arm for each in series]), set[int]()
    for each in series:
        # The colour of the arm, with other dashes at each batch size.
        alike = itertools.count(looks[each.arm], len(COLOURS))
        number = next(number for number in alike if number not in taken)
        taken.add(number)
        runs = each.trained
        stds = [run.std if run.n > 1 else None for run in runs]
        mean_curve(
            axes, number, [run.epochs for run in runs], [run.mean for run in runs], stds, label=each.name
        )
    for goal in goals:
        axes.axhline(goal.score, color=ink(), linestyle=":", linewidth=0.8)
    lengths = sorted({run.epochs for each in series for run in each.trained})
    batch_axis(axes, lengths, [f"{length:g}" for length in lengths])
    axes.set(xlabel="epochs of the run", ylabel=f"{label} (%), mean ± 2 standard deviations")
    axes.set_ylim(bottom=0)  # linear, as the interpolation is
    axes.legend(frameon=False, fontsize=9)


def _draw_needed(axes: Axes, goals: Sequence[Goal], label: str, *, of_steps: bool = False) -> None:
    """A line through the best arm of each batch size, with 95% bars where they have two ends."""
    sizes = sorted({series.batch_size for goal in goals for series, _ in goal.best})
    for number, goal in enumerate(goals):
        places = [series.batch_size for series, _ in goal.best]
        units = [series.steps(1) if of_steps else 1.0 for series, _ in goal.best]
        values = [needed.value * unit for (_, needed), unit in zip(goal.best, units, strict=True)]
        style = look(number)
        axes.plot(places, values, **style, marker="o", label=f"{label} {goal.score:g} %")
        for place, unit, (_, needed) in zip(places, units, goal.best, strict=True):
            if needed.low and needed.high and math.isfinite(needed.high):
                axes.plot([place] * 2, [needed.low * unit, needed.high * unit], color=style["color"])
        if places:
            same = [values[0] * (places[0] / size if of_steps else 1) for size in places]
            axes.plot(places, same, color=style["color"], linestyle="--", linewidth=0.8)
    axes.plot([], [], color=ink(), linestyle="--", linewidth=0.8, label="the same epochs")
    axes.set(xlabel="images per step (batch size)", ylabel="steps" if of_steps else "epochs", yscale="log")
    tidy(axes)
    batch_axis(axes, sizes, [f"{size:,}" for size in sizes])
