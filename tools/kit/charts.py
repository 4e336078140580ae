"""Charts: what they have in common, as a picture (PNG) and as a part of a page (SVG)."""

import html
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Six of Okabe & Ito's colours, told apart by colour-blind eyes and in print, and the two that differ most
# from them and from each other for those eyes, both visible on white and on black.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, VIOLET, BROWN = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9048F0", "#9A5038",
)  # fmt: skip
GREY = "#888888"
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "os^Dv<P*"


@dataclass(frozen=True)
class Chart:
    """One chart: `draw` fills the axes that it is given. `alt` says what is to be seen, for those who cannot
    see it; `width` and `height` are in inches.
    """

    title: str
    alt: str
    draw: Callable[[Axes], None]
    width: float = 5.4
    height: float = 4.3

    def into(self, figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title(textwrap.fill(self.title, int(10 * self.width)), fontsize=11)  # ten letters an inch
        self.draw(axes)


COLUMNS = 4
"""Charts beside each other in one picture."""


def save(charts: Sequence[Chart], path: Path) -> Path:
    """The charts in one picture (PNG), in rows of COLUMNS; returns `path`."""
    rows = [charts[start : start + COLUMNS] for start in range(0, len(charts), COLUMNS)]
    heights = [max(chart.height for chart in row) for row in rows]
    width = max(sum(chart.width for chart in row) for row in rows)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    strips = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, strip in zip(rows, strips, strict=True):
        widths = [chart.width for chart in row]
        rest = [width - sum(widths)] if sum(widths) < width else []  # a shorter row is not stretched
        parts = strip.subfigures(1, len(row) + len(rest), width_ratios=[*widths, *rest], squeeze=False)[0]
        for chart, part in zip(row, parts, strict=False):
            chart.into(part)
    figure.savefig(path, dpi=130)
    return path


_INK = "#010203"
"""What is drawn in this colour takes that of the text around it."""
_INKS: Any = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK
)


def as_svg(chart: Chart) -> str:
    """The chart as an element of a page, without a background, in the page's own ink."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "", **_INKS}):
        figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
        chart.into(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = re.sub(r"(?s)<metadata>.*?</metadata>", "", buffer.getvalue()).replace(_INK, "currentColor")
    head, _, body = drawing[drawing.index("<svg") :].partition(">")
    box = head[head.index("viewBox") :].partition('"')[2].partition('"')[0]
    # Several charts stand on one page, and each has an axes_1.
    prefix = re.sub(r"\W+", "-", chart.title.lower()) + "-"
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", body)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" role="img" aria-label="{html.escape(chart.alt)}">'
        f"<title>{html.escape(chart.title)}</title>{body.strip()}"
    )


def ink() -> str:
    """The colour of text: what stands out from the background."""
    return str(matplotlib.rcParams["text.color"])


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of curve `number` (from 0), as matplotlib takes them: the colours repeat, with other
    dashes.
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _DASHES[number // len(COLOURS) % len(_DASHES)],
    }


def marker(number: int) -> str:
    """Of the points of curve `number`: another one where the colours repeat."""
    return _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]


def mean_curve(
    axes: Axes,
    number: int,
    places: Sequence[float],
    means: Sequence[float],
    stds: Sequence[float | None],
    *,
    label: str,
) -> None:
    """Curve `number` with a marker of its own and bars of two standard deviations. A point without a
    deviation (None: a single run) is hollow and has no bar.
    """
    style = look(number)
    point: Any = dict(marker=marker(number), markersize=6, color=style["color"])
    axes.plot(places, means, **style, linewidth=1.6)
    for place, mean, std in zip(places, means, stds, strict=True):
        if std is None:
            axes.plot(place, mean, **point, fillstyle="none")
        else:  # down to 0 at most: no score is negative
            axes.errorbar(place, mean, [[min(mean, 2 * std)], [2 * std]], **point, capsize=3)
    filled = any(std is not None for std in stds)
    line = style["linestyle"] if len(stds) > 1 else "none"
    axes.plot([], [], linestyle=line, **point, fillstyle="full" if filled else "none", label=label)


def tidy(axes: Axes, *, legend: bool = True) -> None:
    """A frame and a grid that stay in the background, plain numbers on logarithmic axes, and the legend."""
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            plain_numbers(axis)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def legend_below(axes: Axes, *others: Axes) -> None:
    """Outside the axes, where it hides nothing."""
    handles = [handle for each in (axes, *others) for handle in each.get_legend_handles_labels()[0]]
    axes.figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=2)


def legend_beside(axes: Axes) -> None:
    """At the right of the axes, one name below the other."""
    axes.figure.legend(frameon=False, fontsize=9, loc="outside right center")


def plain_numbers(axis: Axis) -> None:
    """Of a logarithmic axis; where it is short, 2 and 5 are written too, and where it is very short all
    digits, or it would carry one number or none.
    """
    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(LogLocator(subs=range(1, 10) if high < 6 * low else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def batch_axis(axes: Axes, sizes: Sequence[float], labels: Sequence[str]) -> None:
    """Batch sizes as equal steps of doubling, marked where something was measured."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def error_axis(axes: Axes, means: Sequence[float | None]) -> None:
    """Linear below 1%, so that an error of 0 has a place, logarithmic above, so that 1% and 2% can be told
    apart. It begins at the last mark that leaves a fifth of room below the best of `means`, and ends at the
    first above all that was drawn: where nothing comes near 0 or 100, the axis does not either.
    """
    marks = (0, 1, 2, 5, 10, 20, 30, 50, 70, 100)
    best = min((mean for mean in means if mean is not None), default=0.0)
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    axes.set_yticks(marks, [str(mark) for mark in marks])
    worst = axes.dataLim.ymax if axes.has_data() else 100
    top = min((mark for mark in marks[1:] if mark >= worst), default=100)
    axes.set_ylim(max(mark for mark in marks if mark <= 0.8 * best), top)


def crosses(axes: Axes, places: Sequence[float], colour: Any, *, top: bool = True, label: str | None) -> None:
    """Where runs diverged: at the worse edge of the chart, since they have no score."""
    if len(places):
        edge: Any = dict(transform=axes.get_xaxis_transform(), clip_on=False)
        axes.plot(places, [1.0 if top else 0.0] * len(places), "x", color=colour, label=label, **edge)


def name_in_ink(axes: Axes, marker: str, label: str) -> None:
    """What a hollow marker means, in the legend, once for all arms."""
    axes.plot([], [], marker, color=ink(), fillstyle="none", label=label)
