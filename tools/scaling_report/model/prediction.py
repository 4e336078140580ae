"""From measured steps to steps at other sizes.

Compute is not assumed: it is solved from one measured throughput, so that the model reproduces it exactly;
further measured sizes fix how fast the rest grows.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .assumptions import World
from .comm import FloatArray
from .step import StepModel

# Sizes of one series scatter more than repeats of one size: published series do about a curve through two of
# their points (`with_second_size` in bench/scaling_prediction.py). A factor on `Assumptions.measurement`.
SERIES_SCATTER = 1.6


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
    """What measured steps say: the computing time, and by how much the other parts were misjudged at each
    measured size. Each draw reproduces every measured size, so that draws differ only elsewhere.
    """

    def __init__(self, reference: StepModel, measured: Mapping[int, float]):
        self.reference, self.measured = reference, dict(sorted(measured.items()))
        (self.first, self.step_s), *more = self.measured.items()
        rate = reference.job.step_images / self.step_s  # of one GPU
        self.loader_floor = rate * reference.topology.layout(self.first)[0]
        reference = self._fed(reference)
        self.compute = reference.solve_compute(self.step_s, self.first)
        self._known = reference
        self.noise, least = (SERIES_SCATTER if more else 1.0) * reference.world.noise, 1e-3 * self.step_s
        modelled = {size: self._modelled(reference, size) for size, _ in more}
        self.growth = {
            size: np.maximum(step_s * (1 + self.noise[2]) - self.step_s * (1 + self.noise[0]), least)
            / np.maximum(modelled[size] - self.step_s, least)
            for size, step_s in more
        }
        self.chosen = _chosen([modelled[size] / step_s - 1 for size, step_s in more], reference.world)

    def _modelled(self, model: StepModel, size: int) -> FloatArray:
        return np.asarray(np.sum(list(model.parts(self.compute, size).values()), axis=0))

    def _fed(self, model: StepModel) -> StepModel:
        """The loader of a node cannot be slower than the node was seen to be."""
        if model.loader is None:
            return model
        faster = copy.copy(model)
        faster.loader = np.maximum(model.loader, self.loader_floor)
        return faster

    def prediction(self, model: StepModel, size: int, *, strong: bool) -> Prediction:
        same = model.job == self.reference.job and model.topology == self.reference.topology
        compute = self.compute * model.compute_against(self.reference)
        parts = self._fed(model).parts(compute, size, baseline=size == self.first)
        wanted = self._correction(size) if size > self.first else None
        if wanted is not None:
            parts = {cause: part if cause == "compute" else wanted * part for cause, part in parts.items()}
        step = np.sum(list(parts.values()), axis=0)
        # What was measured to start from, and what will be measured to compare with, are each a little off.
        noise = self.noise[1] - self.noise[0]
        rate = model.job.step_images / step * (1 + (0.0 if size == self.first else noise))
        if same and size in self.measured:
            rate = np.full(model.world.draws, model.job.step_images / self.measured[size])
        baseline = self.reference.job.step_images / self.step_s
        if self.chosen is not None:
            rate, parts = rate[self.chosen], {cause: part[self.chosen] for cause, part in parts.items()}
        return _summary(model, size, rate, parts, baseline, strong=strong)

    def _correction(self, size: int) -> FloatArray | None:
        """The factor on all but computing for which steps grow as they were seen to; between measured sizes
        in proportion to the logarithm of the GPUs, beyond the largest as there.
        """
        if not self.growth:
            return None
        places, logs = np.log(list(self.growth)), np.log(list(self.growth.values()))
        where = float(np.interp(np.log(size), places, np.arange(len(places))))
        low, share = int(where), where - int(where)
        growth = np.exp(logs[low] + share * (logs[min(low + 1, len(logs) - 1)] - logs[low]))
        modelled = self._modelled(self._known, size)
        lost = np.maximum(modelled - self.compute, 1e-9 * self.step_s)
        wanted = self.step_s + growth * (modelled - self.step_s) - self.compute
        return np.maximum(wanted / lost, 0.0)


def _chosen(off: Sequence[FloatArray], world: World) -> npt.NDArray[np.int64] | None:
    """Draws, the more often the nearer each came to the sizes that were measured (`off`: relative errors of
    the step); None where there are none.
    """
    if not off:
        return None
    scale = 2**0.5 * world.measurement
    while True:  # a measurement that no draw comes near is still told apart by the nearest hundred
        weights = np.exp(-0.5 * np.sum([(each / scale) ** 2 for each in off], axis=0))
        if np.sum(weights) ** 2 > 100 * np.sum(weights**2):
            break
        scale *= 1.5
    picked = np.random.default_rng(0).choice(len(weights), size=len(weights), p=weights / np.sum(weights))
    return np.asarray(picked)


def _summary(
    model: StepModel,
    gpus: int,
    rate: FloatArray,
    parts: dict[str, FloatArray],
    baseline: float,
    *,
    strong: bool,
) -> Prediction:
    step = np.sum(list(parts.values()), axis=0)
    low, middle, high = (float(each) for each in np.quantile(rate, [0.05, 0.5, 0.95]))
    shares = {cause: float(np.mean(part / step)) for cause, part in parts.items()}
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
