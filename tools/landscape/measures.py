"""Sharpness and spectrum of a run at its newest checkpoint, each piece cached as it finishes."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lbtrain.analysis import (
    Objective,
    ascent_sharpness,
    box_sharpness,
    spectral_density,
    top_eigenvalues,
    trace,
)
from lbtrain.errors import RecipeError
from lbtrain.recipe import SAME_SCORE, Recipe, as_text, differences

from ..kit.charts import save
from ..kit.progress import bar
from .cache import Watched, cached
from .compare_chart import spectra_chart
from .loss import TrainingLoss
from .runs import DistContext, Run

ITERATIONS = 10
BOXES = (1e-3, 5e-4)
KESKAR = f"box {BOXES[0]:g}, full space, from x"
"""The measure that Keskar et al. 2017 report: in the full space, searched from the minimum itself."""
DIRECTIONS = 100
RADIUS = 0.05
EIGENVALUES, EIGENVALUE_STEPS = 5, 60
TRACE_SAMPLES = 30
PROBES, DENSITY_STEPS = 2, 40


class Measures:
    """What can be measured of one run, by its `loss`. Every method is collective, returns plain data, and
    measures only what is not there yet. Holds the model and a part of the data set once it has measured.
    """

    def __init__(self, run: Run, loss: TrainingLoss):
        self.run, self.loss, self.context, self.options = run, loss, loss.context, loss.options
        self.settings = {
            **dataclasses.asdict(self.options),
            "step": run.step,
            "checkpoint": run.whole.checksum,
            **({"image_size": size} if (size := run.image_size) else {}),
        }

    def sharpness(self) -> dict[str, Any]:
        """Keskar's metric by box and space, searched from a random point and from x, and SAM's."""
        boxes = [self.box(*how) for how in itertools.product(BOXES, (0, DIRECTIONS), ("random", "x"))]
        radius = self._piece(
            f"sharpness SAM {RADIUS}", 1, lambda watched: {"value": ascent_sharpness(watched, radius=RADIUS)}
        )
        return {**dict(boxes), f"SAM, radius {RADIUS}": radius}

    def box(self, epsilon: float, directions: int, start: str) -> tuple[str, dict[str, Any]]:
        """Keskar's metric in one box, with its name."""
        space = f"{directions} random directions" if directions else "full space"
        name = f"{epsilon:g}, {space}" + (", from x" if start == "x" else "")

        def measure(watched: Watched) -> dict[str, Any]:
            how: Any = dict(epsilon=epsilon, directions=directions, start=start)
            return dataclasses.asdict(box_sharpness(watched, iterations=ITERATIONS, **how))

        return f"box {name}", self._piece(f"sharpness {name}", 4 * ITERATIONS, measure)

    def spectrum(self) -> dict[str, Any]:
        """Top eigenvalues, trace, density."""
        return {**self.eigenvalues_and_trace(), "density": self._density()}

    def eigenvalues_and_trace(self) -> dict[str, Any]:
        return {"eigenvalues": self._eigenvalues(), "trace": self._trace()}

    def text(self, found: dict[str, Any]) -> str:
        """What was found, for the terminal of rank 0."""
        if self.context.rank:
            return ""
        lines = [
            f"{self.run.path}, step {self.settings['step']}; {self.options.examples} examples, batch norm: "
            f"{self.options.batch_norm}"
        ]
        if "eigenvalues" not in found:
            return "\n".join(lines + [f"{name:<42} {each['value']:.6g}" for name, each in found.items()])
        top, estimate = found["eigenvalues"], found["trace"]
        open_end = (
            ""
            if top["converged"]
            else f" (not converged after {top['products']} products: within {max(top['residuals']):.2g})"
        )
        lines.append(
            f"{'top eigenvalues':<42} {' '.join(f'{value:.6g}' for value in top['values'])}{open_end}"
        )
        lines.append(f"{'smallest eigenvalue':<42} {top['smallest']:.6g}")
        low, high = estimate["interval"]
        lines.append(f"{'trace (95%)':<42} {estimate['value']:.6g} ({low:.6g} to {high:.6g})")
        path = save(
            [spectra_chart([found["density"]], [self.run.path.name])], self.run.folder / "spectrum.png"
        )
        return "\n".join([*lines, str(path)])

    def _eigenvalues(self) -> dict[str, Any]:
        def measure(watched: Watched) -> dict[str, Any]:
            found = top_eigenvalues(watched, EIGENVALUES, steps=EIGENVALUE_STEPS, tolerance=1e-3)
            return {key: value for key, value in vars(found).items() if key != "vectors"}

        return self._piece("top eigenvalues", EIGENVALUE_STEPS, measure)

    def _trace(self) -> dict[str, Any]:
        return self._piece(
            "trace",
            TRACE_SAMPLES,
            lambda watched: dataclasses.asdict(trace(watched, samples=TRACE_SAMPLES, tolerance=0.05)),
        )

    def _density(self) -> dict[str, Any]:
        def measure(watched: Watched) -> dict[str, Any]:
            return dataclasses.asdict(spectral_density(watched, probes=PROBES, steps=DENSITY_STEPS))

        return self._piece("spectral density", PROBES * DENSITY_STEPS, measure)

    def _piece(self, name: str, at_most: int, measure: Callable[[Watched], dict[str, Any]]) -> dict[str, Any]:
        def now() -> dict[str, Any]:
            with bar(f"{self.run.path.name}: {name}", at_most, enabled=self.context.rank == 0) as tick:
                return measure(Watched(self._objective, tick))

        file = name.replace(" ", "_").replace(",", "")
        return cached(_folder(self.run), file, self.settings, now, self.context)

    @cached_property
    def _objective(self) -> Objective:
        return self.loss.at(self.run)


def _folder(run: Run) -> Path:
    """Where measurements at its checkpoint are cached: those at a named one in a folder of its own."""
    return run.folder / run.file.stem if run.file else run.folder


def epoch_of(run: Run, context: DistContext) -> float:
    """Of its checkpoint; cached too, as the whole checkpoint has to be read for it. Collective."""

    def measure() -> dict[str, Any]:
        return {"epoch": run.read_checkpoint().progress.examples / run.plan["train_examples"]}

    settings = {"checkpoint": run.whole.checksum}
    return float(cached(_folder(run), "epoch", settings, measure, context)["epoch"])


def check_same_function(runs: Sequence[Run]) -> None:
    """Raises RecipeError unless the losses of all runs are one function of the weights, up to the size of
    their ghost batches, over the same data set; and for a run that is named twice.
    """
    first, *others = runs
    for other in others:
        check_same_network(first.recipe, other.recipe, ("model", "data", "loss"))
        if first.image_size != other.image_size:
            raise RecipeError(
                f"schedule.image_sizes: {first.path} was trained last on images of "
                f"{_pixels(first)} and {other.path} of {_pixels(other)}: only runs that ended with images of "
                "one size can be compared"
            )
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise RecipeError(f"{run.path} is named twice: name each run once")
        seen.add(run.path.resolve())


def _pixels(run: Run) -> str:
    return f"{run.image_size} pixels" if run.image_size else "the size of the evaluations"


def check_same_network(first: Recipe, second: Recipe, sections: Sequence[str] = ("model", "data")) -> None:
    """Raises RecipeError for recipes that differ in one of these sections of keys, in more than where the
    images are, how they are read and which weights the training started from.
    """
    for key, one, other in differences(first, second):
        if key.partition(".")[0] in sections and key not in SAME_SCORE | {"model.weights"}:
            what = "with one loss" if key.startswith("loss.") else "of one network on one data set"
            raise RecipeError(
                f"{key} is {as_text(one)} and {as_text(other)}: only runs {what} can be compared"
            )
