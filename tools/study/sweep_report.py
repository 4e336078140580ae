"""The report of a sweep: table, data, the curve of the primary metric against batch size and those of the
training error by epoch, from the run directories.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from lbtrain.tasks import PrimaryMetric

from ..kit.charts import Chart, batch_axis, error_axis, ink, legend_beside, look, save, tidy
from ..kit.tables import Table
from . import curves
from .arm import origin_of
from .grid import Point
from .recorded_points import RecordedPoint, joined
from .report import certainty, draw_curves, provenance_of, write_result

SweepPoint = Point | RecordedPoint


def write_report(
    points: Sequence[Point],
    out: Path,
    *,
    title: str,
    command: str,
    reference: int,
    overrides: Sequence[str] = (),
    published: Iterable[RecordedPoint] = (),
) -> str:
    """Writes sweep.md, .json, .png and .html into `out`, and sweep_errors.png where the runs log a training
    error; returns table and outcomes as text for the terminal.

    `reference`: the batch size that the others are compared with. `overrides`: what makes every arm another
    experiment than its recipe. `published`: points that stand beside these ones, or have other seeds of them.
    """
    summaries = [summary for point in points for summary in point.summaries]
    provenance = provenance_of({origin_of(summary) for summary in summaries}, command)
    made = joined(published, [RecordedPoint.of(point, provenance) for point in points])
    rows = [point.row for point in made]
    chart = chart_of(rows, title, made[0].primary_metric)
    out.mkdir(parents=True, exist_ok=True)  # nothing has been trained where every point is published
    errors_picture = out / "sweep_errors.png"
    errors_picture.unlink(missing_ok=True)  # of an earlier report, whose points may have been others
    if errors := error_charts(made, reference):
        save(errors, errors_picture)
    data = {
        "title": title,
        "command": command,
        "overrides": list(overrides),
        "rows": rows,
        "outcomes": outcomes(made, reference),
        "provenance": " | ".join(dict.fromkeys(row["provenance"] for row in rows)),
    }
    return write_result(out, "sweep", title, data, [chart], [table_of(made)], errors)


def outcomes(points: Sequence[SweepPoint], reference: int) -> list[str]:
    """What each arm loses from the reference batch to its largest; an arm without a point at the reference is
    compared at all its batch sizes, with the first arm that has one. Intervals are of 95%.
    """
    small = {point.arm: point for point in points if point.batch_size == reference}
    largest = {point.arm: point.batch_size for point in sorted(points, key=lambda each: each.batch_size)}
    first = next(iter(small.values()), None)
    if first is None:
        return [f"no run at batch {reference:,}, the base of the learning rate: nothing is compared"]
    compared = [
        (point, small.get(point.arm, first))
        for point in points
        if point.batch_size != reference
        and (point.batch_size == largest[point.arm] or point.arm not in small)
    ]
    return [_outcome(point, base) for point, base in compared if base.mean is not None]


def _outcome(point: SweepPoint, base: SweepPoint) -> str:
    if point.mean is None:
        return f"{point.arm}: all runs diverged at {point.batch_size:,}"
    assert base.mean is not None
    gap = point.mean - base.mean
    interval, remark = certainty(gap, point, base)
    of = "" if base.arm == point.arm else f" of {base.arm}"
    start = f"from batch {base.batch_size:,}{of}{base.losses} to {point.batch_size:,}{point.losses}"
    return f"{point.arm}: {gap:+.2f}{interval} points {start}{remark}"


def table_of(points: Sequence[SweepPoint]) -> Table:
    """Batch sizes down, arms across; the primary metric in percent, mean and standard deviation of a run."""
    arms = list(dict.fromkeys(point.arm for point in points))
    cells = {(point.batch_size, point.arm): point.cell for point in points}
    sizes = sorted({point.batch_size for point in points})
    rows = [[f"{size:,}", *(cells.get((size, arm), "-") for arm in arms)] for size in sizes]
    return Table(["batch", *arms], rows, align="r" + "l" * len(arms))


def chart_of(rows: Sequence[dict[str, Any]], title: str, metric: PrimaryMetric) -> Chart:
    """Mean score over the batch size of the rows of sweep.json, bars of two standard deviations (Goyal et al.
    2017, Figure 1); a cross where runs diverged.
    """
    alt = (
        f"{metric.label} against the batch size, one line for each way of scaling, with bars of two standard "
        "deviations."
    )
    return Chart(title, alt, partial(_draw, rows=rows, metric=metric), width=8.4, height=4.6)


def error_charts(points: Sequence[SweepPoint], reference: int) -> list[Chart]:
    """Training error by epoch at each batch size above the reference, beside the curve of the reference:
    where a large batch trains as the small one does, the two match (Goyal et al. 2017, Figures 2 to 4).
    """
    base = next((point for point in points if point.batch_size == reference and point.error_curves), None)
    sizes = sorted({point.batch_size for point in points if point.error_curves})
    return [
        Chart(
            f"Training error, batch {size:,}",
            f"Training error by epoch at batch {size:,}, one line for each way of scaling, and that of batch "
            f"{reference:,} for comparison.",
            partial(_draw_errors, points=points, base=base, size=size),
        )
        for size in sizes
        if base and size > reference
    ]


def _draw_errors(axes: Axes, points: Sequence[SweepPoint], base: SweepPoint, size: int) -> None:
    looks = curves.looks_of([point.arm for point in points])
    here = [point for point in points if point.batch_size == size]
    for point in here:
        draw_curves(axes, look(looks[point.arm]), point.error_curves, label=point.arm)
    style = dict(color=ink(), linestyle="--")
    draw_curves(axes, style, base.error_curves, label=f"batch {base.batch_size:,}")
    axes.set(xlabel="epoch", ylabel="training error (%)")
    error_axis(axes, [curve[1][-1] for point in (*here, base) for curve in point.error_curves])
    tidy(axes)


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], metric: PrimaryMetric) -> None:
    arms = curves.measured(rows)
    curves.draw(axes, arms, top=not metric.higher_is_better)
    sizes = curves.sizes_of(arms)
    batch_axis(axes, sizes, [f"{size:,}" for size in sizes])
    bars = ", mean ± 2 standard deviations" if any(row["n"] > 1 for row in rows) else ""
    label = f"{rows[0].get('label', metric.label)} (%){bars}"
    axes.set(xlabel="images per step (batch size)", ylabel=label, ylim=(0, 100))
    if not metric.higher_is_better:
        error_axis(axes, [row["mean"] for row in rows])
    legend_beside(axes)
