"""The landscape's charts."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..kit.charts import BLUE, GREEN, GREY, ORANGE, Chart, tidy
from .noise import Advice, Window, interval_text, size_text


def batch_charts(
    advice: Advice, found: Sequence[Window], train_examples: int, schedule: Sequence[str]
) -> list[Chart]:
    """Examples against steps, a point for each batch size; the noise scale over the run, and the schedule
    that follows it.
    """
    return [
        Chart(
            "What each batch size would cost",
            "Examples against steps, one point for each batch size on a falling curve: the critical batch, "
            f"{size_text(advice.critical_batch)}, lies in its bend.",
            lambda axes: _draw_tradeoff(axes, advice),
            width=6,
        ),
        Chart(
            "Gradient noise scale over the run",
            "The gradient noise scale with its 95% band over the epochs, beside the batch size of the run "
            "and one that follows the noise.",
            lambda axes: _draw_course(axes, found, train_examples, schedule),
            width=6,
        ),
    ]


def _draw_tradeoff(axes: Axes, advice: Advice) -> None:
    middle = math.log2(advice.critical_batch)
    fine = 2 ** np.linspace(middle - 4.3, middle + 4.3, 200)
    axes.plot([advice.steps(size) for size in fine], [advice.examples(size) for size in fine], color=BLUE)
    for power in range(max(0, math.ceil(middle - 4.3)), math.floor(middle + 4.3) + 1):
        point = advice.steps(2**power), advice.examples(2**power)
        axes.plot(*point, "o", color=BLUE, markersize=5)
        axes.annotate(f"{2**power:,}", point, xytext=(6, 4), textcoords="offset points", fontsize=9)
    critical = advice.steps(advice.critical_batch), advice.examples(advice.critical_batch)
    axes.plot(
        *critical, "D", color=ORANGE, markersize=9, label=f"critical batch {size_text(advice.critical_batch)}"
    )
    axes.axvline(advice.min_steps, color=GREY, linestyle=":", label=f"fewest steps {advice.min_steps:,.0f}")
    axes.axhline(
        advice.min_examples,
        color=GREY,
        linestyle="--",
        label=f"fewest examples {advice.min_examples:,.0f}",
    )
    axes.set(xlabel="steps", ylabel="examples", xscale="log", yscale="log")
    tidy(axes)


def _draw_course(axes: Axes, found: Sequence[Window], train_examples: int, schedule: Sequence[str]) -> None:
    shown = [window.noise.value or 1.0 for window in found] + [
        size for window in found for size in window.steps
    ]
    bottom, top = max(1.0, min(shown) / 4), 4 * max(shown)
    for window in found:
        _draw_window(axes, window, train_examples, bottom)
    if schedule:
        epochs, sizes = _steps_of(schedule, found[-1].end / train_examples)
        axes.plot(
            epochs,
            sizes,
            color=GREEN,
            linestyle="--",
            drawstyle="steps-post",
            label="suggested batch",
        )
    axes.set(
        xlabel="epoch",
        ylabel="examples",
        yscale="log",
        ylim=(bottom, top),
    )
    tidy(axes)


def _draw_window(axes: Axes, window: Window, train_examples: int, bottom: float) -> None:
    noise, span = window.noise, [window.start / train_examples, window.end / train_examples]
    axes.fill_between(span, max(noise.low, bottom / 2), noise.high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(
        span,
        [noise.value or 0.0] * 2,
        color=BLUE,
        linewidth=2,
        label=_once(axes, "noise scale, with 95% bands"),
    )
    edges = (
        np.cumsum([window.start, *(size * count for size, count in window.steps.items())]) / train_examples
    )
    axes.stairs(
        list(window.steps),
        edges,
        baseline=None,
        color=ORANGE,
        linewidth=1.5,
        label=_once(axes, "this run's batch"),
    )


def _once(axes: Axes, label: str) -> str | None:
    """The label for the first of several alike."""
    return None if label in axes.get_legend_handles_labels()[1] else label


def _steps_of(schedule: Sequence[str], end: float) -> tuple[list[float], list[float]]:
    values = dict(word.split("=") for word in schedule)
    epochs, sizes = [0.0], [float(values["batch_size"])]
    for point in filter(None, values["schedule.batch_growth"].split(",")):
        at, factor = point.split(":")
        epochs.append(float(at.removesuffix("ep")))
        sizes.append(sizes[-1] * float(Fraction(factor)))
    return [*epochs, end], [*sizes, sizes[-1]]


def layer_charts(rows: Sequence[dict[str, Any]], train_examples: int) -> list[Chart]:
    """Heat maps over layers and epochs: |w| / |g| (You et al. 2017, Table 2) and each layer's own noise
    scale.
    """

    def ratio(row: dict[str, Any], name: str) -> float | None:
        gradient = row["gradient_norms"][name]
        return row["weight_norms"][name] / gradient if gradient else None

    names = list(rows[0]["weight_norms"])
    return [
        _heat("|w| / |g| (grey: 0 or infinite)", rows, names, ratio, train_examples),
        _heat(
            "noise scale, examples (grey: lost in the noise)",
            rows,
            names,
            lambda row, name: row["noise_scales"][name],
            train_examples,
        ),
    ]


def ratio_chart(rows: Sequence[dict[str, Any]], train_examples: int) -> Chart:
    """A heat map of the trust ratios that LARS or LAMB stepped with."""
    title, names = "trust ratio by layer (grey: 0)", list(rows[0]["ratios"])
    return _heat(title, rows, names, lambda row, name: row["ratios"][name], train_examples)


def _heat(
    title: str,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    value: Callable[[dict[str, Any], str], float | None],
    train_examples: int,
) -> Chart:
    """Layers down, the first on top, epochs across; grey where nothing is known."""
    grid = np.array([[value(row, name) or math.nan for row in rows] for name in names], dtype=float)
    edges = [0.0, *(row["examples"] / train_examples for row in rows)]  # a column ends where it was measured
    return Chart(
        title,
        f"A heat map of {len(names)} layers, the first on top, over {edges[-1]:.3g} epochs: {title}.",
        partial(_draw_heat, grid=grid, edges=edges, names=names),
        width=7.5,
        height=max(4, 0.17 * len(names) + 1.5),
    )


def _draw_heat(axes: Axes, grid: Any, edges: Sequence[float], names: Sequence[str]) -> None:
    finite = grid[np.isfinite(grid) & (grid > 0)]
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (1.0, 10.0)
    colours: Any = dict(norm="log", vmin=low, vmax=max(high, 1.01 * low), cmap="viridis")
    heights = np.arange(len(grid) + 1) - 0.5
    image = axes.pcolormesh(edges, heights, grid, rasterized=True, **colours)
    axes.set_facecolor("#dddddd")
    axes.set_ylim(len(grid) - 0.5, -0.5)
    axes.set(xlabel="epoch")
    axes.set_yticks(range(len(names)), names, fontsize=min(8.0, 500 / len(names)))
    axes.figure.colorbar(image, ax=axes)


def sweep_chart(curve: dict[str, Any]) -> Chart:
    """Steps to a goal over batch sizes: measured, fitted, and as the noise scale says (through the measured
    point of its own run).
    """
    return Chart(
        f"Steps to {curve['goal']}",
        "Steps against the batch size, both on logarithmic axes: the measured points, "
        f"{_critical_text(curve['measured'])}.",
        partial(_draw_sweep, data=curve),
        width=7,
        height=4.8,
    )


def _critical_text(found: dict[str, Any]) -> str:
    low, high = found["critical_batch_interval"]
    if low and found["critical_batch"] is not None:
        return f"critical batch {found['critical_batch']:,.0f} (95%: {interval_text(low, high)})"
    if low or high:
        return f"critical batch {interval_text(low, high)} (95%)"
    return "critical batch not bounded"


def _draw_sweep(axes: Axes, data: dict[str, Any]) -> None:
    points = data["points"]
    for point in points:
        axes.plot([point["batch_size"]] * len(point["each"]), point["each"], ".", color=BLUE, alpha=0.4)
    sizes, steps = ([point[key] for point in points] for key in ("batch_size", "steps"))
    axes.plot(sizes, steps, "o", color=BLUE, label="measured, best rate of each batch")
    fine, edges = np.geomspace(min(sizes), max(sizes), 100), (min(sizes) / 1.3, 1.3 * max(sizes))
    for key, label, colour, style in (
        ("measured", "fitted", BLUE, "-"),
        ("predicted", "from the noise scale", ORANGE, "--"),
    ):
        if found := data[key]:  # nothing where the noise scale says nothing
            critical, course = found["critical_batch"], found["min_steps"] + found["min_examples"] / fine
            interval = found["critical_batch_interval"]
            named = f"{label}: {_critical_text(found)}"
            axes.plot(fine, course, color=colour, linestyle=style, label=named)
            if critical is not None:
                axes.axvline(critical, color=colour, linestyle=":", linewidth=1)
            # An interval without an end runs off the picture.
            ends = max(interval[0], edges[0] / 2), min(interval[1] or math.inf, 2 * edges[1])
            axes.axvspan(*ends, color=colour, alpha=0.1, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=edges, xlabel="batch size", ylabel="steps")
    tidy(axes)
