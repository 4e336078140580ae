"""The landscape's pictures."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lbtrain.analysis.hessian import Density

from .noise import Advice, Window

# Okabe & Ito's colours, told apart by colour-blind eyes and in print.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


def draw_batch(
    advice: Advice, found: Sequence[Window], train_examples: int, schedule: Sequence[str], path: Path
) -> None:
    """Left: examples against steps, a point for each batch size. Right: the noise scale over the run, and the
    schedule that follows it.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    tradeoff, course = figure.subplots(1, 2)
    _draw_tradeoff(tradeoff, advice)
    _draw_course(course, found, train_examples, schedule)
    figure.savefig(path, dpi=130)


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
        *critical, "D", color=ORANGE, markersize=9, label=f"critical batch {advice.critical_batch:,.0f}"
    )
    axes.axvline(
        advice.min_steps, color="#888888", linestyle=":", label=f"fewest steps {advice.min_steps:,.0f}"
    )
    axes.axhline(
        advice.min_examples,
        color="#888888",
        linestyle="--",
        label=f"fewest examples {advice.min_examples:,.0f}",
    )
    axes.set(
        xlabel="steps", ylabel="examples", xscale="log", yscale="log", title="What each batch size would cost"
    )
    _finish(axes)


def _draw_course(axes: Axes, found: Sequence[Window], train_examples: int, schedule: Sequence[str]) -> None:
    shown = [window.noise.value or 1.0 for window in found if window.tells] + [
        size for window in found for size in window.steps
    ]
    # A band without an end runs off the picture: none may seem to end where the axis does.
    bottom, top = max(1.0, min(shown) / 4), 4 * max(shown)
    for window in found:
        _draw_window(axes, window, train_examples, bottom, top)
    if schedule:
        epochs, sizes = _steps_of(schedule, found[-1].end / train_examples)
        axes.plot(
            epochs,
            sizes,
            color=GREEN,
            linestyle="--",
            drawstyle="steps-post",
            label="a batch that follows it",
        )
    axes.set(
        xlabel="epoch",
        ylabel="examples",
        yscale="log",
        ylim=(bottom, top),
        title="Gradient noise scale over the run",
    )
    _finish(axes)


def _draw_window(axes: Axes, window: Window, train_examples: int, bottom: float, top: float) -> None:
    noise, span = window.noise, [window.start / train_examples, window.end / train_examples]
    if window.tells:
        axes.fill_between(
            span, max(noise.low, bottom / 2), min(noise.high, 2 * top), color=BLUE, alpha=0.18, linewidth=0
        )
        axes.plot(
            span,
            [noise.value or 0.0] * 2,
            color=BLUE,
            linewidth=2,
            label=_once(axes, "noise scale, with 95% bands"),
        )
    else:
        axes.axvspan(
            *span,
            color="#888888",
            alpha=0.15,
            linewidth=0,
            label=_once(axes, "no noise scale shows: left out"),
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


def draw_layers(rows: Sequence[dict[str, Any]], train_examples: int, path: Path) -> None:
    """Heat maps over layers and epochs: |w| / |g| (You et al. 2017, Table 2) and each layer's own noise
    scale.
    """
    names = list(rows[0]["weight_norms"])
    ratios = _grid(
        rows, names, lambda row, name: _ratio(row["weight_norms"][name], row["gradient_norms"][name])
    )
    noise = _grid(rows, names, lambda row, name: row["noise_scales"][name])
    figure = Figure(figsize=(13, max(4, 0.17 * len(names) + 1.5)), layout="constrained")
    epochs = [row["examples"] / train_examples for row in rows]
    titles = "|w| / |g| (grey: 0 or infinite)", "noise scale, examples (grey: lost in the noise)"
    for axes, grid, title in zip(figure.subplots(1, 2, sharey=True), (ratios, noise), titles, strict=True):
        _heat(figure, axes, grid, epochs, title)
    figure.axes[0].set_yticks(range(len(names)), names, fontsize=min(8.0, 500 / len(names)))
    figure.savefig(path, dpi=130)


def draw_ratios(rows: Sequence[dict[str, Any]], train_examples: int, path: Path) -> None:
    """A heat map of the layer-wise ratios that LARS or LAMB stepped with."""
    names = list(rows[0]["ratios"])
    figure = Figure(figsize=(8, max(3.5, 0.17 * len(names) + 1.5)), layout="constrained")
    axes = figure.subplots()
    epochs = [row["examples"] / train_examples for row in rows]
    _heat(
        figure,
        axes,
        _grid(rows, names, lambda row, name: row["ratios"][name]),
        epochs,
        "trust ratio by layer (grey: 0)",
    )
    axes.set_yticks(range(len(names)), names, fontsize=min(8.0, 500 / len(names)))
    figure.savefig(path, dpi=130)


def _heat(figure: Figure, axes: Axes, grid: Any, epochs: Sequence[float], title: str) -> None:
    edges = [0.0, *epochs]  # a column ends where it was measured
    finite = grid[np.isfinite(grid) & (grid > 0)]
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (1.0, 10.0)
    image = axes.pcolormesh(
        edges,
        np.arange(len(grid) + 1) - 0.5,
        grid,
        norm="log",
        vmin=low,
        vmax=max(high, 1.01 * low),
        cmap="viridis",
    )
    axes.set_facecolor("#dddddd")
    axes.set_ylim(len(grid) - 0.5, -0.5)  # the first layer on top
    axes.set(xlabel="epoch", title=title)
    figure.colorbar(image, ax=axes)


def _ratio(weight: float, gradient: float) -> float | None:
    return weight / gradient if gradient else None


def _grid(rows: Sequence[dict[str, Any]], names: Sequence[str], value: Any) -> Any:
    """[layers, rows], not a number where nothing is known."""
    return np.array([[value(row, name) or math.nan for row in rows] for name in names], dtype=float)


def _finish(axes: Axes) -> None:
    _tidy(axes)
    axes.legend(frameon=False, fontsize=9)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            _plain_numbers(axis)


def _plain_numbers(axis: Axis) -> None:
    """Of a logarithmic axis; where it is short, 2 and 5 are written too, or it would carry one number or
    none.
    """
    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_line(points: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Keskar et al. 2017, figure 3: loss and metric along the line through both runs."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    alphas = [point["alpha"] for point in points]
    axes.plot(
        alphas,
        [point["train_loss"] for point in points],
        "o-",
        color=BLUE,
        markersize=4,
        label="training loss",
    )
    axes.set(yscale="log", xlabel="place on the line", ylabel="training loss (nats)")
    axes.set_title("Along the line between the two runs", pad=22)
    _plain_numbers(axes.yaxis)
    other = axes.twinx()
    other.plot(
        alphas,
        [point["metric"] for point in points],
        "s--",
        color=ORANGE,
        markersize=4,
        label=points[0]["label"],
    )
    other.set(ylabel=points[0]["label"])
    for place, name in enumerate(names):
        axes.axvline(place, color="#888888", linestyle=":")
        axes.annotate(name, (place, 1.0), xycoords=("data", ("axes "
                                                             "fraction")), xytext=(0, 4), textcoords="offset points",
                      ha="center", fontsize=9, color="#555555")  # fmt: skip
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    figure.legend(
        handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=2
    )  # inside it would hide points
    axes.grid(alpha=0.25)
    axes.spines[["top"]].set_visible(False)
    other.spines[["top"]].set_visible(False)
    figure.savefig(path, dpi=130)


def draw_spectra(densities: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Both spectral densities on one axis; a bell's width is a hundredth of the wider spectrum."""
    found = [Density(each["nodes"], each["weights"]) for each in densities]
    nodes = [node for each in found for probe in each.nodes for node in probe]
    margin = 0.05 * (max(nodes) - min(nodes)) or 1.0
    grid = torch.linspace(min(nodes) - margin, max(nodes) + margin, 1000)
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for each, name, colour in zip(found, names, (BLUE, ORANGE), strict=False):
        axes.plot(grid, each.on(grid, sigma=margin / 5).clamp(min=1e-12), color=colour, label=name)
    axes.set(
        yscale="log",
        xlabel="eigenvalue of the Hessian",
        ylabel="density",
        title="Spectral density",
        ylim=(1e-6, None),
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def draw_distances(
    runs: Sequence[Sequence[dict[str, Any]]], fits: Sequence[Any], names: Sequence[str], path: Path
) -> None:
    """Hoffer et al. 2017, figure 2: distance from the initial weights over steps (logarithmic), with the fit
    where there is one.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for rows, fit, name, colour in zip(runs, fits, names, (BLUE, ORANGE), strict=True):
        axes.plot(
            [row["step"] for row in rows],
            [row["distance"] for row in rows],
            "o",
            color=colour,
            markersize=4,
            label=name,
        )
        if fit:
            early = np.geomspace(fit.first, fit.last)
            law = (
                f"steps {fit.first} to {fit.last}: {fit.intercept:.2g} + {fit.slope:.2g} ln(step), "
                f"{fit.explained:.0%} explained"
            )
            axes.plot(early, fit.at(early), "--", color=colour, linewidth=2, label=law)
    axes.set(
        xscale="log",
        xlabel="step",
        ylabel="|w - w0|",
        title="Distance from the initial weights",
        ylim=(0, None),
    )
    _tidy(axes)
    figure.legend(
        frameon=False, fontsize=9, loc="outside lower center", ncols=2
    )  # inside it would hide points
    figure.savefig(path, dpi=130)


def draw_sweep(data: dict[str, Any], path: Path) -> None:
    """Steps over batch sizes: measured, fitted, and as the noise scale says (through the measured point of
    its own run).
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    points = data["points"]
    for point in points:
        axes.plot([point["batch_size"]] * len(point["each"]), point["each"], ".", color=BLUE, alpha=0.4)
    sizes = [point["batch_size"] for point in points]
    axes.plot(
        sizes,
        [point["steps"] for point in points],
        "o",
        color=BLUE,
        label="measured, best rate of each batch",
    )
    fine = np.geomspace(min(sizes), max(sizes), 100)
    for key, colour, style in (("measured", BLUE, "-"), ("predicted", ORANGE, "--")):
        found = data[key]
        if found is None:  # the noise scale said nothing
            continue
        label = (
            f"{'fitted' if key == 'measured' else 'from the noise scale'}: critical batch "
            f"{found['critical_batch']:,.0f}"
        )
        axes.plot(
            fine,
            found["min_steps"] + found["min_examples"] / fine,
            color=colour,
            linestyle=style,
            label=label,
        )
        axes.axvline(found["critical_batch"], color=colour, linestyle=":", linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="batch size",
        ylabel="steps",
        title=f"Steps to a training loss of {data['loss']:g}",
    )
    _finish(axes)
    figure.savefig(path, dpi=130)
