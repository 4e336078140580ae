"""The charts of a report: images/s, efficiency, and where the lost efficiency goes. Measured points are
solid, predictions a hatched band.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..kit.charts import AMBER, GREEN, GREY, ORANGE, PINK, SKY, Chart, look, marker, tidy
from .model.prediction import Prediction
from .report import Report, Row

_MOST_BARS = 40
"""Of one chart: of more, the labels would cover each other."""
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
    over = f"{ends}: measured points with markers, predictions as a dashed line"
    bars, left_out = _bars(report)
    note = f" The {left_out} bars of the smallest sizes are left out." if left_out else ""
    return [
        Chart("images/s", f"Images per second {over} in its 90% band.", partial(_draw_rate, report=report)),
        Chart(
            "efficiency, % (a faster chip lowers it: read with images/s)",
            f"Scaling efficiency {over} in its 90% band.",
            partial(_draw_efficiency, report=report),
        ),
        Chart(
            "where the lost efficiency goes, % of a step",
            "Stacked bars: the share of a step that is spent on "
            f"{', '.join(_LOSSES)}, at each point where its parts were measured or predicted.{note}",
            partial(_draw_shares, bars=bars, left_out=left_out),
            width=max(6, 0.25 * len(bars)),
        ),
    ]


def _sizes(report: Report) -> set[int]:
    return {row.gpus for row in report.good_rows()} | {each.gpus for each in report.predictions}


def _draw_rate(axes: Axes, report: Report) -> None:
    for number, (name, rows) in enumerate(_lines(report)):
        rates = [row.images_per_s or 0.0 for row in rows]
        _draw_measured(axes, number, name, [row.gpus for row in rows], rates)
    if report.predictions:
        _draw_predicted(axes, report.predictions, "images_per_s", 1)
        first, sizes = report.predictions[0], [each.gpus for each in report.predictions]
        ideal = [first.images_per_s / first.gpus * size for size in sizes]
        axes.plot(sizes, ideal, color=GREY, linewidth=0.8, linestyle=":", label="ideal")
    axes.set(xlabel="GPUs", xscale="log", yscale="log")
    tidy(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    mark_sizes(axes, _sizes(report))


def _draw_efficiency(axes: Axes, report: Report) -> None:
    for number, (name, rows) in enumerate(_lines(report)):
        known = [(row.gpus, 100 * row.efficiency) for row in rows if row.efficiency is not None]
        _draw_measured(axes, number, name, [gpus for gpus, _ in known], [share for _, share in known])
    if report.predictions:
        _draw_predicted(axes, report.predictions, "efficiency", 100)
    axes.set(xlabel="GPUs", xscale="log")
    axes.title.set_fontsize(10)
    # From 0, unless all is high: a cut axis makes small losses look large, an uncut one hides them.
    axes.set_ylim(bottom=0 if axes.get_ylim()[0] < 50 else 50, top=max(105, axes.get_ylim()[1]))
    tidy(axes)
    mark_sizes(axes, _sizes(report))


def _draw_measured(axes: Axes, number: int, name: str, sizes: Sequence[int], values: Sequence[float]) -> None:
    axes.plot(sizes, values, **look(number), marker=marker(number), label=f"measured ({name})")


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


Bar = tuple[list[str], dict[str, float]]


def _bars(report: Report) -> tuple[list[Bar], int]:
    """The words below each bar and its shares, and how many more there are: those of the smallest sizes,
    where least is lost, are left out.
    """
    rows = [(row, shares) for row in report.good_rows() if (shares := measured_shares(row))]
    kinds = [row.kind_label.split(", ") for row, _ in rows]
    alike = set.intersection(*map(set, kinds)) if kinds else set()
    bars = [
        (row.gpus, [str(row.gpus), row.data, *_apart(kind[2:], alike), *_apart(kind[:1], alike)], shares)
        for (row, shares), kind in zip(rows, kinds, strict=True)
    ]
    bars += [
        (each.gpus, [str(each.gpus), "predicted"], each.shares) for each in report.predictions if each.shares
    ]
    kept = sorted(range(len(bars)), key=lambda place: bars[place][0])[-_MOST_BARS:]
    return [bars[place][1:] for place in sorted(kept)], len(bars) - len(kept)


def _apart(words: Iterable[str], alike: set[str]) -> list[str]:
    """What tells a kind of rows from the others."""
    return [word for word in words if word not in alike]


def _draw_shares(axes: Axes, bars: Sequence[Bar], left_out: int) -> None:
    bottom = [0.0] * len(bars)
    for cause, color in _LOSSES.items():
        heights = [100 * shares.get(cause, 0.0) for _, shares in bars]
        axes.bar(range(len(bars)), heights, bottom=bottom, color=color, label=cause, width=0.75)
        bottom = [base + height for base, height in zip(bottom, heights, strict=True)]
    # Room for the legend above the bars.
    axes.set(
        xlabel=f"GPUs ({left_out} bars of smaller sizes are left out)" if left_out else "GPUs",
        xticks=range(len(bars)),
        ylim=(0, 1.35 * max([*bottom, 1])),
    )
    many = len(bars) > 8
    labels = [(", " if many else "\n").join(words) for words, _ in bars]
    axes.set_xticklabels(labels, fontsize=8, rotation=90 if many else 0)
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


def mark_sizes(axes: Axes, sizes: Iterable[int]) -> None:
    """Numbers of GPUs on the logarithmic axis, every second one where there are many."""
    places = sorted(sizes)
    axes.xaxis.set_major_locator(FixedLocator(places if len(places) <= 8 else places[::2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
