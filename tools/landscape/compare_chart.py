"""The charts of a comparison of two runs."""

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from lbtrain.analysis.hessian import Density

from ..kit.charts import BLUE, GREY, ORANGE, Chart, legend_below, tidy


def line_chart(points: Sequence[dict[str, Any]], names: Sequence[str]) -> Chart:
    """Keskar et al. 2017, figure 3: loss and metric along the line through both runs."""
    alt = (
        f"Training loss and {points[0]['label']} along the straight line through the weights of {names[0]} "
        f"and {names[1]}."
    )
    draw = partial(_draw_line, points=points, names=names)
    return Chart("Along the line between the two runs", alt, draw, width=7, height=4.6)


def _draw_line(axes: Axes, points: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    alphas, label = [point["alpha"] for point in points], points[0]["label"]
    losses, metrics = ([point[key] for point in points] for key in ("train_loss", "metric"))
    axes.plot(alphas, losses, "o-", color=BLUE, markersize=4, label="training loss")
    axes.set(yscale="log", xlabel="place on the line", ylabel="training loss (nats)")
    axes.set_title(axes.get_title(), pad=22, fontsize=11)
    tidy(axes, legend=False)
    other = axes.twinx()
    other.plot(alphas, metrics, "s--", color=ORANGE, markersize=4, label=label)
    other.set(ylabel=f"{label} (%)")
    other.spines[["top"]].set_visible(False)
    for place, name in enumerate(names):
        axes.axvline(place, color=GREY, linestyle=":")
        above: Any = dict(xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points")
        axes.annotate(name, (place, 1.0), **above, ha="center", fontsize=9, color=GREY)
    legend_below(axes, other)


def spectra_chart(densities: Sequence[dict[str, Any]], names: Sequence[str]) -> Chart:
    """The spectral densities on one axis."""
    alt = (
        f"The density of the eigenvalues of the Hessian, on a logarithmic axis, of {' and of '.join(names)}."
    )
    draw = partial(_draw_spectra, densities=densities, names=names)
    return Chart("Spectral density", alt, draw, width=7, height=4.6)


def _draw_spectra(axes: Axes, densities: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """A bell's width is a hundredth of the wider spectrum."""
    found = [Density(each["nodes"], each["weights"]) for each in densities]
    nodes = [node for each in found for probe in each.nodes for node in probe]
    margin = 0.05 * (max(nodes) - min(nodes)) or 1.0
    grid = torch.linspace(min(nodes) - margin, max(nodes) + margin, 1000)
    for each, name, colour in zip(found, names, (BLUE, ORANGE), strict=False):
        axes.plot(grid, each.on(grid, sigma=margin / 5).clamp(min=1e-12), color=colour, label=name)
    # A single eigenvalue, as the largest is, has the weight of one parameter among all: it must be seen.
    largest = [probe[-1] for each in found for probe in each.weights]
    one = statistics.median(largest) / (margin / 5 * math.sqrt(2 * math.pi))
    tidy(axes)
    bottom = max(1e-12, min(1e-6, one / 10))
    axes.set(yscale="log", xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(bottom, None))


def distance_chart(
    runs: Sequence[Sequence[dict[str, Any]]], fits: Sequence[Any], names: Sequence[str]
) -> Chart:
    """Hoffer et al. 2017, figure 2: distance from the initial weights over steps (logarithmic), with the fit
    where there is one.
    """
    alt = (
        "The distance of the weights from their initial values over the steps, on a logarithmic axis, of "
        f"{' and of '.join(names)}: a straight line is growth with the logarithm of the steps."
    )
    draw = partial(_draw_distances, runs=runs, fits=fits, names=names)
    return Chart("Distance from the initial weights", alt, draw, width=7, height=4.6)


def _draw_distances(
    axes: Axes, runs: Sequence[Sequence[dict[str, Any]]], fits: Sequence[Any], names: Sequence[str]
) -> None:
    for rows, fit, name, colour in zip(runs, fits, names, (BLUE, ORANGE), strict=True):
        steps, distances = ([row[key] for row in rows] for key in ("step", "distance"))
        axes.plot(steps, distances, "o", color=colour, markersize=4, label=name)
        if fit:
            early = np.geomspace(fit.first, fit.last)
            law = (
                f"steps {fit.first} to {fit.last}: {fit.intercept:.2g} + {fit.slope:.2g} ln(step), "
                f"{fit.explained:.0%} explained"
            )
            axes.plot(early, fit.at(early), "--", color=colour, linewidth=2, label=law)
    axes.set(xscale="log", xlabel="step", ylabel="|w - w0|", ylim=(0, None))
    tidy(axes, legend=False)
    legend_below(axes)
