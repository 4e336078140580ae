"""From measured steps to steps at other sizes.

Compute is not assumed: it is solved from one measured throughput, so that the model reproduces it exactly;
further measured sizes fix how fast the rest grows.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .comm import FloatArray
from .step import StepModel

# Another size of a series says less about the rest than a repeat would: by how much, published series show
# (`with_second_size` in bench/scaling_prediction.py). A factor on `Assumptions.measurement`.
SERIES_SCATTER = 4.0
# Of a measured step; where exchanges would leave less, they are faster than the flags say.
LEAST_COMPUTE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One cluster size. Shares are of the step time and sum to 1; `low` and `high` bound the central 90%."""

    gpus: int
    nodes: int
    images_per_s: float
    images_per_s_low: float
    images_per_s_high: float
    efficiency: float
    efficiency_low: float
    efficiency_high: float
    step_s: float
    mode: str = "weak"
    global_batch: int
    shares: dict[str, float] = field(default_factory=dict)


def predict(
    model: StepModel,
    sizes: Sequence[int],
    *,
    measured: Mapping[int, float],
    calibrated: StepModel | None = None,
    global_batch: int | None = None,
) -> list[Prediction]:
    """Predict every size in `sizes` from the seconds of a measured step by number of GPUs (weak scaling of
    one job; at least one size).

    Where the model's job or links differ from what was measured, `calibrated` is the model of the
    measurement. Efficiency is against the smallest measured size. `global_batch` is for strong scaling: the
    images of a step are shared out, however many GPUs there are.
    """
    known = Calibration(calibrated or model, measured)
    split = [model.split(global_batch, size) if global_batch else model for size in sizes]
    return [
        known.prediction(each, size, strong=bool(global_batch))
        for each, size in zip(split, sizes, strict=True)
    ]


class Calibration:
    """What measured steps say: the computing time, and what else must be true for the other measured sizes.

    A draw of the model, with noise, is a draw of what would be measured. Once that is known, the logarithms
    of every step and cause move by their regression on the measured sizes (Matheron's rule), so that what is
    known the least explains the most. A measurement far outside the draws spreads them first (`spread`).
    """

    def __init__(self, reference: StepModel, measured: Mapping[int, float]):
        self.reference, self.measured = reference, dict(sorted(measured.items()))
        (self.first, self.step_s), *more = self.measured.items()
        images, layout = reference.job.step_images, reference.topology.layout
        # Images/s of the node that was seen to be the fastest, at whatever size.
        self.loader_floor = max(images / step * layout(size)[0] for size, step in self.measured.items())
        self.links = np.ones(reference.world.draws)
        reference = self._seen_to_be(reference)
        solved, least = reference.solve_compute(self.step_s, self.first), LEAST_COMPUTE * self.step_s
        self.compute = np.maximum(solved, least)
        if np.any(solved < least):
            links = reference.solve_links(self.compute, self.step_s, self.first)
            self.links = np.where(solved < least, links, 1.0)
            reference = self._seen_to_be(self.reference)
        first, self.noise, *own = reference.world.noise(2 + len(more))
        self.noise -= first  # What is compared with will be a little off, and so was the first size.
        self.spread = 1.0
        if more:
            modelled = np.log([_sum(reference.parts(self.compute, size)) for size, _ in more])
            self._see(modelled, SERIES_SCATTER * np.array(own) - first, np.log([step for _, step in more]))

    def _see(self, modelled: FloatArray, noise: FloatArray, steps: FloatArray) -> None:
        off = steps - np.mean(modelled, axis=1)
        surprise = off @ np.linalg.pinv(np.atleast_2d(np.cov(modelled + noise))) @ off / len(steps)
        self.spread = max(1.0, float(surprise) ** 0.5)
        seen = _spread(modelled, self.spread) + noise
        self._missing = steps[:, None] - seen
        # What each draw weighs in a regression on the measured sizes.
        self._weights = np.linalg.pinv(seen - np.mean(seen, axis=1, keepdims=True)).T

    def _known(self, logs: FloatArray, *, spread: float = 1.0) -> FloatArray:
        """Draws of anything, moved by what the measured sizes say of it."""
        wide = _spread(logs, spread)
        return np.asarray(wide + self._weights @ wide @ self._missing)

    def learned(self, draws: FloatArray) -> FloatArray:
        """Draws of a positive quantity of the model, once the measured sizes are known."""
        return np.exp(self._known(np.log(draws)))

    def _seen_to_be(self, model: StepModel) -> StepModel:
        """Neither the loader of a node nor a link can be slower than it was seen to be."""
        if np.any(self.links < 1):
            model = model.with_links(self.links)
        if model.loader is not None:
            faster = copy.copy(model)
            faster.loader = np.maximum(model.loader, self.loader_floor)
            return faster
        return model

    def prediction(self, model: StepModel, size: int, *, strong: bool) -> Prediction:
        same = model.job == self.reference.job and model.topology == self.reference.topology
        compute = self.compute * model.compute_against(self.reference)
        parts = self._seen_to_be(model).parts(compute, size, baseline=size == self.first)
        noise = 0.0 * self.noise if size == self.first else self.noise
        step, lost = np.log(_sum(parts)), {cause: part for cause, part in parts.items() if cause != "compute"}
        if len(self.measured) > 1:
            spread = self.spread if size > self.first else 1.0
            step, noise = self._known(step, spread=spread), self._known(noise)
            step = np.maximum(step, self._least(size) if same else -np.inf)
            lost = self._lost(lost, np.maximum(np.exp(step) - compute, 0.0), spread)
        seconds = np.exp(step + noise)
        if same and size in self.measured:
            seconds = np.full_like(seconds, self.measured[size])
        baseline = self.reference.job.step_images / self.step_s
        rate = model.job.step_images / seconds
        return _summary(model, size, rate, {"compute": compute} | lost, baseline, strong=strong)

    def _least(self, size: int) -> float:
        """Logarithm of the seconds that fewer GPUs were seen to take: more are no faster each."""
        smaller = [step_s for measured, step_s in self.measured.items() if measured < size]
        return float(np.log(smaller[-1])) if smaller else -np.inf

    def _lost(
        self, parts: Mapping[str, FloatArray], total: FloatArray, spread: float
    ) -> dict[str, FloatArray]:
        """`total` seconds by cause: the causes as they were modelled, moved by what was measured."""
        least = 1e-5 * self.step_s
        logs = [self._known(np.log(np.maximum(part, least)), spread=spread) for part in parts.values()]
        weights = np.exp(logs - np.max(logs, axis=0)) * [[np.any(part > 0)] for part in parts.values()]
        return dict(zip(parts, total * weights / np.maximum(np.sum(weights, axis=0), least), strict=True))


def _spread(draws: FloatArray, factor: float) -> FloatArray:
    mean = np.mean(draws, axis=-1, keepdims=True)
    return np.asarray(mean + factor * (draws - mean))


def _sum(parts: Mapping[str, FloatArray]) -> FloatArray:
    return np.asarray(np.sum(list(parts.values()), axis=0))


def _summary(
    model: StepModel,
    gpus: int,
    rate: FloatArray,
    parts: dict[str, FloatArray],
    baseline: float,
    *,
    strong: bool,
) -> Prediction:
    low, middle, high = (float(each) for each in np.quantile(rate, [0.05, 0.5, 0.95]))
    shares = {cause: float(np.mean(part / _sum(parts))) for cause, part in parts.items()}
    # One GPU waits for nobody: that it is faster or slower than the mean is its computing.
    waited = 0.0 if gpus == 1 else max(0.0, shares["stragglers"])
    shares |= {"compute": shares["compute"] + shares["stragglers"] - waited, "stragglers": waited}
    return Prediction(
        gpus=gpus,
        nodes=model.topology.layout(gpus)[1],
        images_per_s=middle * gpus,
        images_per_s_low=low * gpus,
        images_per_s_high=high * gpus,
        efficiency=middle / baseline,
        efficiency_low=low / baseline,
        efficiency_high=high / baseline,
        step_s=model.job.step_images / middle,
        mode="strong" if strong else "weak",
        global_batch=round(gpus * model.job.step_images),
        shares=shares,
    )
