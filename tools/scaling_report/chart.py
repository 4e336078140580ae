"""The charts of a report: images/s, efficiency, and where the lost efficiency goes. Measured points are
solid, predictions a hatched band.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..kit.charts import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, Chart, tidy
from .model.prediction import Prediction
from .report import Report, Row

# Series differ in marker as well as in colour.
_SERIES = ((BLUE, "o"), (GREEN, "s"), (PINK, "D"), (SKY, "^"))
_LOSSES = {
    "overlap": SKY,
    "communication": ORANGE,
    "stragglers": PINK,
    "software": GREY,
    "optimizer": "#F0E442",
    "data": GREEN,
}


def charts_of(report: Report) -> list[Chart]:
    sizes = sorted(_sizes(report))
    ends = f"from {sizes[0]} to {sizes[-1]} GPUs" if sizes else "(nothing was measured)"
    over = f"{ends}: measured points as solid lines, predictions as a dashed one"
    return [
        Chart("images/s", f"Images per second {over} in its 90% band.", partial(_draw_rate, report=report)),
        Chart(
            "efficiency, % (a faster chip lowers it: read with images/s)",
            f"Scaling efficiency {over} in its 90% band.",
            partial(_draw_efficiency, report=report),
        ),
        Chart(
            "where the lost efficiency goes, % of a step",
            "Stacked bars: the share of a step at each number of GPUs that is spent on "
            f"{', '.join(_LOSSES)}, measured and predicted.",
            partial(_draw_shares, report=report),
            width=6,
        ),
    ]


def _sizes(report: Report) -> set[int]:
    return {row.gpus for row in report.good_rows()} | {each.gpus for each in report.predictions}


def _draw_rate(axes: Axes, report: Report) -> None:
    for (name, rows), (color, marker) in zip(_lines(report), itertools.cycle(_SERIES), strict=False):
        rates = [row.images_per_s or 0.0 for row in rows]
        axes.plot([row.gpus for row in rows], rates, color=color, marker=marker, label=f"measured ({name})")
    if report.predictions:
        _draw_predicted(axes, report.predictions, "images_per_s", 1)
        first, sizes = report.predictions[0], [each.gpus for each in report.predictions]
        ideal = [first.images_per_s / first.gpus * size for size in sizes]
        axes.plot(sizes, ideal, color=GREY, linewidth=0.8, linestyle=":", label="ideal")
    axes.set(xlabel="GPUs", xscale="log", yscale="log")
    tidy(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _mark_sizes(axes, report)


def _draw_efficiency(axes: Axes, report: Report) -> None:
    for (name, rows), (color, marker) in zip(_lines(report), itertools.cycle(_SERIES), strict=False):
        known = [(row.gpus, 100 * row.efficiency) for row in rows if row.efficiency is not None]
        gpus, shares = [each[0] for each in known], [each[1] for each in known]
        axes.plot(gpus, shares, color=color, marker=marker, label=f"measured ({name})")
    if report.predictions:
        _draw_predicted(axes, report.predictions, "efficiency", 100)
    axes.set(xlabel="GPUs", xscale="log")
    axes.title.set_fontsize(10)
    # From 0, unless all is high: a cut axis makes small losses look large, an uncut one hides them.
    axes.set_ylim(bottom=0 if axes.get_ylim()[0] < 50 else 50, top=max(105, axes.get_ylim()[1]))
    tidy(axes)
    _mark_sizes(axes, report)


def _lines(report: Report) -> Iterable[tuple[str, list[Row]]]:
    """Rows of one kind, by size."""
    names = sorted({row.kind_label for row in report.good_rows()})
    for name in names:
        own = [row for row in report.good_rows() if row.kind_label == name]
        yield name, sorted(own, key=lambda row: row.gpus)


def _draw_predicted(axes: Axes, predictions: Sequence[Prediction], name: str, unit: float) -> None:
    sizes = [each.gpus for each in predictions]
    low, middle, high = (
        [unit * getattr(each, name + end) for each in predictions] for end in ("_low", "", "_high")
    )
    axes.fill_between(sizes, low, high, facecolor=AMBER, alpha=0.25, hatch="//", edgecolor=AMBER, linewidth=0)
    axes.plot(sizes, middle, color=AMBER, linestyle="--", label="predicted, 90% interval")


def _draw_shares(axes: Axes, report: Report) -> None:
    bars = [
        (f"{row.gpus}\n{row.data}", measured_shares(row)) for row in report.good_rows() if row.mode == "weak"
    ]
    bars += [(f"{each.gpus}\npredicted", each.shares) for each in report.predictions]
    bars = [(label, shares) for label, shares in bars if shares][:14]
    bottom = [0.0] * len(bars)
    for cause, color in _LOSSES.items():
        heights = [100 * shares.get(cause, 0.0) for _, shares in bars]
        axes.bar(range(len(bars)), heights, bottom=bottom, color=color, label=cause, width=0.75)
        bottom = [base + height for base, height in zip(bottom, heights, strict=True)]
    # Room for the legend above the bars.
    axes.set(
        xlabel="GPUs",
        xticks=range(len(bars)),
        ylim=(0, 1.35 * max([*bottom, 1])),
    )
    axes.set_xticklabels([label for label, _ in bars], fontsize=8, rotation=90 if len(bars) > 8 else 0)
    axes.legend(loc="upper left", ncols=3, frameon=False, fontsize=8)


def measured_shares(row: Row) -> dict[str, float]:
    """Measured parts of a step as shares of their sum; empty where the parts were not measured."""
    waited = row.loader_wait_s if row.data_wait_s is None else row.data_wait_s
    parts = {
        "compute": row.compute_s,
        "communication": row.exposed_communication_s,
        "optimizer": row.optimizer_s,
        "data": waited,
    }
    known = {cause: seconds for cause, seconds in parts.items() if seconds}
    total = sum(known.values())
    return {cause: seconds / total for cause, seconds in known.items()} if row.compute_s and total else {}


def _mark_sizes(axes: Axes, report: Report) -> None:
    sizes = sorted(_sizes(report))
    axes.xaxis.set_major_locator(FixedLocator(sizes if len(sizes) <= 8 else sizes[::2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
