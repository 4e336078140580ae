"""How long a synchronous step takes on n GPUs, with an interval that says how much of that is assumption.

    step(n) = compute + overlap slow-down + exposed communication + stragglers + software + optimizer,  at
              least the loader's time

Compute is not assumed: it is solved from one measured throughput, so that the model reproduces it exactly;
further measured sizes fix how fast the rest grows. What a data sheet cannot say is drawn from `Assumptions`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from lbtrain.errors import RecipeError

from .assumptions import Assumptions, Spread, World
from .comm import FORWARD_SHARE, Algorithm, Buckets, Cost, FloatArray, exchange_s, exposed_s
from .presets import Link
from .topology import Topology

# Sizes of one series scatter more than repeats of one size: published series do about a curve through two of
# their points (`with_second_size` in bench/scaling_prediction.py). A factor on `Assumptions.measurement`.
SERIES_SCATTER = 1.6
RESNET50_WORK = 4.1e9  # multiply-adds of an image of 224 pixels (He et al. 2016, table 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's work in a step, however many ranks there are."""

    buckets: Buckets
    images: float  # of a GPU and micro-step
    passes: int = 1  # micro-steps of a step
    optimizer_s: float = 0.0
    zero_stage: int = 0
    peak_tflops: float | None = None  # of the data sheet, in the type computed in; None: not known
    value_bytes: int = 4  # of what is computed with
    gradient_bytes: float = 4  # of a value that is exchanged; autocast keeps gradients in fp32
    half: bool = False  # computed in half precision, on units that are fast in it
    overlaps: bool = True  # False: the exchange begins when backward has ended, as in DeepSpeed's stage 0
    loader_images_per_s: Spread | None = None  # of a whole node; None: the loader never limits
    work: float = RESNET50_WORK  # multiply-adds of one image's forward pass
    uneven: bool = False  # images differ in size and content, as a detector's do

    @property
    def step_images(self) -> float:
        return self.images * self.passes


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


class StepModel:
    """Seconds of a step of `job` on `topology`, by cause; every size is drawn from the same uncertain
    world.
    """

    def __init__(
        self,
        job: Job,
        topology: Topology,
        *,
        algorithm: Algorithm = "auto",
        assumptions: Assumptions | None = None,
        seed: int = 0,
    ):
        self.job, self.topology, self.algorithm = job, topology, algorithm
        self.world = world = World(assumptions or Assumptions(), seed)
        self._exchanged: dict[tuple[float, int], tuple[FloatArray, FloatArray]] = {}
        ports = topology.links
        self.inside = _cost(topology.inside, 1, world.share_inside, world.latency_inside, world)
        self.between = _cost(topology.between, ports, world.share_between, world.latency_between, world)
        self.loader = job.loader_images_per_s.at(world.loader) if job.loader_images_per_s else None

    def predict(
        self,
        sizes: Sequence[int],
        *,
        measured: Mapping[int, float],
        calibrated: "StepModel | None" = None,
        global_batch: int | None = None,
    ) -> list[Prediction]:
        """Predict every size in `sizes` from the seconds of a measured step by number of GPUs (weak scaling
        of one job; at least one size).

        Where this model's job or links differ from what was measured, `calibrated` is the model of the
        measurement. Efficiency is against the smallest measured size. `global_batch` is for strong scaling:
        the images of a step are shared out, however many GPUs there are.
        """
        known = Calibration(calibrated or self, measured)
        return [
            known.prediction(
                self.split(global_batch, size) if global_batch else self, size, bool(global_batch)
            )
            for size in sizes
        ]

    def split(self, global_batch: int, gpus: int) -> "StepModel":
        """The same model where `global_batch` images are shared out over `gpus`. Raises RecipeError where a
        micro-step would have less than one.
        """
        images = global_batch / (gpus * self.job.passes)
        if images < 1:
            raise RecipeError(
                f"a batch of {global_batch} images cannot be split over {gpus} GPUs in {self.job.passes} "
                f"micro-step(s): ask for at most {global_batch // self.job.passes} GPUs"
            )
        smaller = copy.copy(self)
        smaller.job = replace(self.job, images=images)
        return smaller

    def compute_against(self, reference: "StepModel") -> FloatArray:
        """Computing time of this job's step over that of the reference's."""
        ours, theirs = self.job, reference.job
        fixed = self.world.pass_images * RESNET50_WORK / ours.work
        factor = ours.passes / theirs.passes * (ours.images + fixed) / (theirs.images + fixed)
        if ours.peak_tflops and theirs.peak_tflops:
            arithmetic = theirs.peak_tflops / ours.peak_tflops
            limited = self.world.arithmetic_limited
            factor = factor * (limited * arithmetic + (1 - limited) * ours.value_bytes / theirs.value_bytes)
        return np.asarray(factor, dtype=np.float64)

    def solve_compute(self, step_s: float, gpus: int) -> FloatArray:
        """The computing time, per draw, for which the modelled step on `gpus` GPUs takes `step_s`; by
        bisection, to 1e-9 of it.
        """
        low, high = np.zeros(self.world.draws), np.full(self.world.draws, 2 * step_s)
        for _ in range(31):
            middle = (low + high) / 2
            too_long = sum(self.parts(middle, gpus, baseline=True).values()) > step_s
            low, high = np.where(too_long, low, middle), np.where(too_long, middle, high)
        return (low + high) / 2

    def parts(self, compute: FloatArray, gpus: int, *, baseline: bool = False) -> dict[str, FloatArray]:
        """Seconds by cause, per draw; their sum is the step. `baseline`: on the GPUs that were measured."""
        job, (in_node, nodes), world = self.job, self.topology.layout(gpus), self.world
        # From stage 2 on gradients are sharded, so every micro-step sends them; before, the last one does.
        windows = job.passes if job.zero_stage >= 2 else 1
        exposed, hidden, fetch = self._exchange(
            compute / windows, job.buckets.accumulated(job.passes // windows), gpus
        )
        clocks = self.topology.boost_headroom * world.boost_lost * (1 - 1 / in_node)
        software = world.software_inside * (1 - 1 / in_node) + world.software_between * spread_out(nodes)
        parts = {
            "compute": compute,
            "overlap": windows * world.overlap_slowdown * self._inside_share(gpus) * hidden,
            "communication": windows * exposed + fetch,
            "stragglers": compute * (self._slowest(gpus, baseline=baseline) + clocks),
            "software": compute * software * (world.half_factor if job.half else 1.0),
            "optimizer": np.full_like(compute, job.optimizer_s / (gpus if job.zero_stage else 1)),
        }
        step = np.sum(list(parts.values()), axis=0)
        needed = 0.0 if self.loader is None else job.step_images * in_node / self.loader
        return parts | {"data": np.maximum(needed - step, 0.0)}

    def _exchange(
        self, compute: FloatArray, buckets: Buckets, gpus: int
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Seconds of exchange (exposed, hidden under computing) in a window of `compute`, and to fetch
        weights after the update.

        ZeRO (Rajbhandari et al. 2020, section 7): stages 1 and 2 halve the all-reduce into a reduce-scatter
        and a fetch of weights; stage 3 fetches weights in the forward and again in the backward pass.
        """
        costs = [self._costs(size, gpus) for size in buckets.num_bytes]
        reduced, fetched = [reduce for reduce, _ in costs], np.sum([fetch for _, fetch in costs], axis=0)
        if self.job.zero_stage == 3:
            reduced = [reduce + fetch for reduce, fetch in costs]
        exposed, hidden = self._hide(exposed_s(compute, buckets.ready, reduced), np.sum(reduced, axis=0))
        if self.job.zero_stage < 3:
            return exposed, hidden, fetched
        more_exposed, more_hidden = self._hide(np.maximum(fetched - FORWARD_SHARE * compute, 0.0), fetched)
        return exposed + more_exposed, hidden + more_hidden, 0 * fetched

    def _hide(self, at_least: FloatArray, total: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(exposed, hidden) of `total` seconds, `at_least` of which computing cannot hide."""
        exposed = at_least + (self.world.unhidden if self.job.overlaps else 1.0) * (total - at_least)
        return exposed, total - exposed

    def _costs(self, num_bytes: float, gpus: int) -> tuple[FloatArray, FloatArray]:
        """Seconds to reduce a bucket's gradients, and to fetch its weights where that is not part of it."""
        local, remote = self._sum_s(num_bytes, gpus)
        if self.job.zero_stage:
            return (local + remote) / 2, (local + remote) / 2
        fetch = remote / 2 if self.algorithm == "parameter-server" else 0 * remote
        return local + remote - fetch, fetch

    def _sum_s(self, num_bytes: float, gpus: int) -> tuple[FloatArray, FloatArray]:
        """Seconds (inside nodes, between nodes) to sum `num_bytes` over all GPUs; kept, for computing time
        does not change it.
        """
        key = num_bytes, gpus
        if key not in self._exchanged:
            links = {"inside": self.inside, "between": self.between}
            self._exchanged[key] = exchange_s(
                num_bytes, gpus, self.topology, **links, algorithm=self.algorithm
            )
        return self._exchanged[key]

    def _inside_share(self, gpus: int) -> FloatArray:
        """The share of an exchange's time in which it moves data between the GPUs of a node. Only that takes
        memory bandwidth and multiprocessors away from computing; a network is too slow to.
        """
        local, remote = self._sum_s(self.job.buckets.total_bytes, gpus)
        return local / np.maximum(local + remote, 1e-12)

    def _slowest(self, gpus: int, *, baseline: bool) -> FloatArray:
        """By how much of its computing time a rank waits for the slowest."""
        world = self.world
        if world.slowest_of:
            return world.slowest_of(gpus) - 1
        # The largest of so many standard normal draws, by the inverse of its distribution.
        lasting = world.jitter * np.asarray(ndtri(world.luck[0 if baseline else 1] ** (1 / gpus)))
        if not self.job.uneven:
            return lasting
        # Another rank in every step: the mean of the largest (Chen & Tyler 1999).
        largest = float(ndtri(0.5264 ** (1 / gpus))) if gpus > 1 else 0.0
        return lasting + largest * world.uneven / self.job.step_images**0.5


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

    def prediction(self, model: StepModel, size: int, strong: bool) -> Prediction:
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


def spread_out(nodes: int) -> float:
    """How far software's cost between nodes has grown: none on one node, half of all on two."""
    return 1 - 1 / nodes


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


def _cost(link: Link, ports: int, share: FloatArray, latency_factor: FloatArray, world: World) -> Cost:
    per_s = link.bytes_per_s * share
    if link.tcp:
        per_s = np.minimum(per_s, world.tcp_bytes_per_s)
    return Cost(link.latency_s * latency_factor, 1 / (per_s * ports))
