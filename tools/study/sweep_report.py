"""The report of a sweep: table, data and the curve of the primary metric against batch size, from the run
directories.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..kit import pages
from ..kit.charts import (
    Chart,
    batch_axis,
    crosses,
    down_to_zero,
    error_axis,
    legend_below,
    look,
    name_the_crosses,
    save,
)
from ..kit.tables import Table
from .arm import origin_of
from .grid import Point
from .report import certainty, provenance_of, write_text_and_data


def write_report(
    points: list[Point],
    out: Path,
    *,
    title: str,
    command: str,
    reference: int,
    overrides: Sequence[str] = (),
) -> str:
    """Writes sweep.md, .json, .png and .html into `out`; returns table and outcomes as text for the terminal.

    `reference`: the batch size that the others are compared with. `overrides`: what makes every arm another
    experiment than its recipe.
    """
    table, found = table_of(points), outcomes(points, reference)
    origin = provenance_of({origin_of(summary) for point in points for summary in point.summaries}, command)
    chart = chart_of(points, title)
    save([chart], out / "sweep.png")
    page = pages.report(title, found, [chart], [table], origin)
    (out / "sweep.html").write_text(page)
    data = {
        "title": title,
        "command": command,
        "overrides": list(overrides),
        "rows": [{**point.row(), "recipe": point.recipe} for point in points],
        "table": table.markdown(),
        "outcomes": found,
        "provenance": origin,
    }
    return write_text_and_data(out, "sweep", data)


def outcomes(points: list[Point], reference: int) -> list[str]:
    """What each arm loses from the reference batch to the largest; the interval is two standard errors of the
    difference.
    """
    small = {point.arm: point for point in points if point.batch_size == reference}
    largest = max(point.batch_size for point in points)
    lines = []
    for point in points:
        base = small.get(point.arm)
        if point.batch_size != largest or largest == reference or base is None:
            continue
        if point.mean is None or base.mean is None:
            continue
        gap = point.mean - base.mean
        interval, remark = certainty(gap, point, base)
        lines.append(
            f"{point.arm}: {gap:+.2f}{interval} points from batch {reference:,} to {largest:,}{remark}"
        )
    return lines


def table_of(points: list[Point]) -> Table:
    """Batch sizes down, arms across; the primary metric in percent, mean and standard deviation of a run."""
    arms = list(dict.fromkeys(point.arm for point in points))
    cells = {(point.batch_size, point.arm): point.cell for point in points}
    sizes = list(dict.fromkeys(point.batch_size for point in points))
    rows = [[f"{size:,}", *(cells.get((size, arm), "-") for arm in arms)] for size in sizes]
    return Table(["batch", *arms], rows, align="r" + "l" * len(arms))


def chart_of(points: list[Point], title: str) -> Chart:
    """Mean score over the batch size, bars of two standard deviations (Goyal et al. 2017, Figure 1); a cross
    where runs diverged.
    """
    label = points[0].label
    alt = (
        f"{label} against the batch size, one line for each way of scaling, with bars of two standard "
        "deviations."
    )
    return Chart(title, alt, partial(_draw, points=points), width=7.4, height=5.0)


def _draw(axes: Axes, points: list[Point]) -> None:
    arms = list(dict.fromkeys(point.arm for point in points))
    sizes = sorted({point.batch_size for point in points})
    metric = points[0].primary_metric
    for number, arm in enumerate(arms):
        # A little aside, so that bars of arms that agree do not hide each other.
        shift = 1.03 ** (number - (len(arms) - 1) / 2)
        own = [point for point in points if point.arm == arm]
        held = [(each.batch_size * shift, each.mean, 2 * each.std) for each in own if each.mean is not None]
        if held:
            x, mean, spread = zip(*held, strict=True)
            bars: Any = dict(
                yerr=down_to_zero(mean, spread), marker="o", markersize=4, capsize=3, linewidth=1.8
            )
            axes.errorbar(x, mean, **bars, **look(number), label=arm)
        lost = [point.batch_size * shift for point in own if point.lost]
        label = None if held else arm
        crosses(axes, lost, look(number)["color"], top=not metric.higher_is_better, label=label)
    if any(point.lost for point in points):
        name_the_crosses(axes)
    batch_axis(axes, sizes, [f"{size:,}" for size in sizes])
    axes.set(
        xlabel="images per step (batch size)",
        ylabel=f"{points[0].label} (%), mean ± 2 standard deviations",
        ylim=(0, 100),
    )
    if not metric.higher_is_better:
        error_axis(axes, [point.mean for point in points])
    legend_below(axes)
