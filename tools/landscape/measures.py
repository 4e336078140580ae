"""Sharpness and spectrum of a run at its newest checkpoint, each piece cached as it finishes."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import cached_property
from typing import Any

from lbtrain.analysis import ascent_sharpness, box_sharpness, spectral_density, top_eigenvalues, trace
from lbtrain.errors import RecipeError

from ..kit.charts import save
from ..kit.progress import bar
from .cache import Watched, cached
from .compare_chart import spectra_chart
from .runs import DistContext, LossOptions, Run

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
    """What can be measured of one run. Every method is collective, returns plain data, and measures only what
    is not there yet.
    """

    def __init__(self, run: Run, context: DistContext, options: LossOptions):
        self.run, self.context, self.options = run, context, options.fitting(run)
        found = run.checkpoint
        self.settings = {
            **dataclasses.asdict(self.options),
            "step": found.progress.step,
            "checkpoint": found.checksum,
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
        folder = self.run.folder / self.run.file.stem if self.run.file else self.run.folder
        return cached(folder, file, self.settings, now, self.context)

    @cached_property
    def _objective(self) -> Any:
        return self.run.objective(self.context, self.options)


def check_same_network(small: Run, large: Run) -> None:
    """Raises RecipeError for two runs that have no line between them."""
    for key in ("model", "data"):
        first, second = getattr(small.recipe, key), getattr(large.recipe, key)
        differing = [
            name
            for name in vars(first)
            if getattr(first, name) != getattr(second, name) and name not in ("root", "workers", "weights")
        ]
        if differing:
            name = f"{key}.{differing[0]}"
            values = f"{getattr(first, differing[0])} and {getattr(second, differing[0])}"
            raise RecipeError(f"{name} is {values}: only runs of one network on one data set can be compared")
