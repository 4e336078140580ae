"""The picture of a report: images/s, efficiency, and what eats the rest. Measured points are solid,
predictions a hatched band.
"""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .model.step import Prediction
from .report import Report, Row

# Distinguishable without colour vision too (Okabe & Ito 2008); series differ in marker as well.
_SERIES = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "D"), ("#56B4E9", "^"))
_PREDICTED = "#E69F00"
_LOSSES = {
    "overlap": "#56B4E9",
    "communication": "#D55E00",
    "stragglers": "#CC79A7",
    "optimizer": "#F0E442",
    "data": "#009E73",
}


def draw(report: Report) -> Figure:
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    rate, efficiency, shares = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    series = _series(report.good_rows())
    _draw_rate(rate, series, report.predictions)
    _draw_efficiency(efficiency, series, report.predictions)
    _draw_shares(shares, report)
    for axes in (rate, efficiency):
        _mark_sizes(axes, report)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles, labels, frameon=False, fontsize=9)
    return figure


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = sorted({row.kind_words for row in rows})
    return {
        name: sorted((row for row in rows if row.kind_words == name), key=lambda row: row.gpus)
        for name in names
    }


def _draw_rate(axes: Axes, series: dict[str, list[Row]], predictions: Sequence[Prediction]) -> None:
    for (name, rows), (color, marker) in zip(series.items(), itertools.cycle(_SERIES), strict=False):
        rates = [row.images_per_s or 0.0 for row in rows]
        axes.plot([row.gpus for row in rows], rates, color=color, marker=marker, label=f"measured ({name})")
    if predictions:
        sizes = [each.gpus for each in predictions]
        bounds = (
            [each.images_per_s_low for each in predictions],
            [each.images_per_s_high for each in predictions],
        )
        axes.fill_between(
            sizes, *bounds, facecolor=_PREDICTED, alpha=0.25, hatch="//", edgecolor=_PREDICTED, linewidth=0
        )
        axes.plot(
            sizes,
            [each.images_per_s for each in predictions],
            color=_PREDICTED,
            linestyle="--",
            label="predicted, 90% interval",
        )
        ideal = [predictions[0].images_per_s / sizes[0] * size for size in sizes]
        axes.plot(sizes, ideal, color="#888888", linewidth=0.8, linestyle=":", label="ideal")
    axes.set(title="images/s", xlabel="GPUs", xscale="log", yscale="log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(alpha=0.25)


def _draw_efficiency(axes: Axes, series: dict[str, list[Row]], predictions: Sequence[Prediction]) -> None:
    for (name, rows), (color, marker) in zip(series.items(), itertools.cycle(_SERIES), strict=False):
        known = [row for row in rows if row.efficiency is not None]
        axes.plot(
            [row.gpus for row in known],
            [100 * (row.efficiency or 0) for row in known],
            color=color,
            marker=marker,
            label=f"measured ({name})",
        )
    if predictions:
        sizes = [each.gpus for each in predictions]
        low, high = (
            [100 * each.efficiency_low for each in predictions],
            [100 * each.efficiency_high for each in predictions],
        )
        axes.fill_between(
            sizes, low, high, facecolor=_PREDICTED, alpha=0.25, hatch="//", edgecolor=_PREDICTED, linewidth=0
        )
        axes.plot(
            sizes,
            [100 * each.efficiency for each in predictions],
            color=_PREDICTED,
            linestyle="--",
            label="predicted, 90% interval",
        )
    axes.set(title="efficiency, % (a faster chip lowers it: read with images/s)", xlabel="GPUs", xscale="log")
    axes.title.set_fontsize(10)
    # From 0, unless all is high: a cut axis makes small losses look large, an uncut one hides them.
    axes.set_ylim(bottom=0 if axes.get_ylim()[0] < 50 else 50, top=max(105, axes.get_ylim()[1]))
    axes.grid(alpha=0.25)


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
        title="what is not computing, % of a step",
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
    sizes = sorted({row.gpus for row in report.good_rows()} | {each.gpus for each in report.predictions})
    shown = sizes if len(sizes) <= 8 else sizes[::2]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
