"""The report of a sweep: table, data and the curve of the headline metric against batch size, from the run
directories.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lbtrain.tasks import PrimaryMetric

from .jobs import Job
from .report import cell, certainty, error_axis, look, origin_of, plt, provenance_of


@dataclass(frozen=True)
class Point:
    """One arm at one batch size over all seeds."""

    arm: str
    batch_size: int
    jobs: tuple[Job, ...]
    primary_metric: PrimaryMetric

    @cached_property
    def summaries(self) -> list[dict[str, Any]]:
        """Of the runs that did not diverge."""
        paths = [Path(job.run_dir) / "summary.json" for job in self.jobs]
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    @cached_property
    def plan(self) -> dict[str, Any]:
        return dict(json.loads((Path(self.jobs[0].run_dir) / "plan.json").read_text()))

    @property
    def scores(self) -> list[float]:
        """Of the headline metric, in percent, one per run that did not diverge."""
        return [summary[self.primary_metric.name] for summary in self.summaries]

    @property
    def diverged(self) -> int:
        return len(self.jobs) - len(self.summaries)

    @property
    def mean(self) -> float | None:
        """Of the runs that did not diverge; None if all did."""
        return statistics.mean(self.scores) if self.scores else None

    @property
    def std(self) -> float:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    def row(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "batch_size": self.batch_size,
            "steps": self.plan["total_steps"],
            "peak_lr": self.plan["learning_rate"]["peak"],
            "mean": self.mean,
            "std": self.std,
            "n": len(self.scores),
            "diverged": self.diverged,
            "label": self.primary_metric.label,
            self.primary_metric.name: self.scores,
            "run_seconds": sum(summary["seconds"] for summary in self.summaries),
        }

    def cell(self) -> str:
        return cell(self.scores, self.diverged)


def write_report(points: list[Point], out: Path, *, title: str, command: str, reference: int) -> str:
    """Writes sweep.md, .json and .png into `out`; returns table and verdicts as text for the terminal.

    `reference`: the batch size that the others are held against.
    """
    table, verdict = markdown_table(points), verdicts(points, reference)
    origin = provenance_of({origin_of(summary) for point in points for summary in point.summaries}, command)
    draw(points, out / "sweep.png", title)
    (out / "sweep.md").write_text(
        f"{table}\n\n" + "\n".join(f"- {line}" for line in verdict) + f"\n\n{origin}\n"
    )
    rows = [point.row() for point in points]
    data = {
        "title": title,
        "command": command,
        "rows": rows,
        "table": table,
        "verdicts": verdict,
        "provenance": origin,
    }
    (out / "sweep.json").write_text(json.dumps(data, indent=1) + "\n")
    return "\n".join([table, "", *verdict, "", f"{out}/sweep.png, {out}/sweep.json"])


def verdicts(points: list[Point], reference: int) -> list[str]:
    """What each arm loses from the reference batch to the largest; the interval is two standard errors of the
    difference.
    """
    small = {point.arm: point for point in points if point.batch_size == reference and point.mean is not None}
    largest = max(point.batch_size for point in points)
    lines = []
    for point in points:
        base = small.get(point.arm)
        if (
            point.batch_size != largest
            or base is None
            or point.mean is None
            or base.mean is None
            or largest == reference
        ):
            continue
        gap = point.mean - base.mean
        interval, remark = certainty(gap, (point.std, len(point.scores)), (base.std, len(base.scores)))
        lines.append(
            f"{point.arm}: {gap:+.2f}{interval} points from batch {reference:,} to {largest:,}{remark}"
        )
    return lines


def markdown_table(points: list[Point]) -> str:
    """Batch sizes down, arms across; the headline metric in percent, mean and standard deviation of a run."""
    arms = list(dict.fromkeys(point.arm for point in points))
    cells = {(point.batch_size, point.arm): point.cell() for point in points}
    lines = ["| batch | " + " | ".join(arms) + " |", "|---:|" + "---|" * len(arms)]
    sizes = list(dict.fromkeys(point.batch_size for point in points))
    return "\n".join(
        [*lines, *[f"| {size:,} | " + " | ".join(cells[size, arm] for arm in arms) + " |" for size in sizes]]
    )


def draw(points: list[Point], path: Path, title: str) -> None:
    """Mean score over the batch size, bars of two standard deviations (Goyal et al. 2017, Figure 1); a cross
    where runs diverged.
    """
    figure, axes = plt.subplots(figsize=(9.4, 4.8), layout="constrained")
    arms = list(dict.fromkeys(point.arm for point in points))
    sizes = sorted({point.batch_size for point in points})
    primary_metric = points[0].primary_metric
    for number, arm in enumerate(arms):
        own = [point for point in points if point.arm == arm]
        # A little aside, so that bars of arms that agree do not hide each other.
        shift = 1.03 ** (number - (len(arms) - 1) / 2)
        held = [
            (point.batch_size * shift, point.mean, 2 * point.std) for point in own if point.mean is not None
        ]
        if held:
            x, mean, spread = zip(*held, strict=True)
            axes.errorbar(
                x,
                mean,
                yerr=down_to_zero(mean, spread),
                **look(number),
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=1.8,
                label=arm,
            )
        lost = [point.batch_size * shift for point in own if point.diverged]
        crosses(
            axes,
            lost,
            look(number)["color"],
            top=not primary_metric.higher_is_better,
            label=None if held else arm,
        )
    if any(point.diverged for point in points):
        name_the_crosses(axes)
    batch_axis(axes, sizes, [f"{size:,}" for size in sizes])
    label = f"{primary_metric.label} (%), mean ± 2 standard deviations"
    axes.set(xlabel="images a step (batch size)", ylabel=label, title=title, ylim=(0, 100))
    if not primary_metric.higher_is_better:
        error_axis(axes, [point.mean for point in points])
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")  # inside, it hides bars
    figure.savefig(path, dpi=130)
    plt.close(figure)


def crosses(axes: Axes, batch_sizes: Sequence[float], colour: Any, *, top: bool, label: str | None) -> None:
    """Where runs diverged: at the worse edge of the picture, since they have no score."""
    if batch_sizes:
        edge = [1.0 if top else 0.0] * len(batch_sizes)
        axes.plot(
            batch_sizes,
            edge,
            "x",
            color=colour,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label=label,
        )


def name_the_crosses(axes: Axes) -> None:
    """In the legend, once for all arms."""
    axes.plot([], [], "x", color="black", label="runs that diverged")


def down_to_zero(means: Sequence[float], widths: Sequence[float]) -> tuple[list[float], list[float]]:
    """Bars of these widths, below and above, for a quantity that cannot be negative."""
    return [min(mean, width) for mean, width in zip(means, widths, strict=True)], list(widths)


def batch_axis(axes: Axes, sizes: Sequence[int], labels: Sequence[str]) -> None:
    """Batch sizes as equal steps of doubling, marked where something was measured, in a frame that stays in
    the background.
    """
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
