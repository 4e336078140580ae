"""How long a synchronous step takes on n GPUs, with an interval that says how much of that is assumption.

    step(n) = slowest of n ranks' (compute + overlap slow-down) + exposed communication + optimizer,  at least
    the loader's time

Compute is not assumed: it is solved from one measured throughput, so that the model reproduces it exactly.
What a data sheet cannot say is drawn from `Assumptions`; a prediction is the median of the draws, its
interval their 5% and 95% quantiles. Draws are seeded: the same question has the same answer.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtri

from lbtrain.errors import RecipeError

from .comm import (
    FORWARD_SHARE,
    Algorithm,
    Buckets,
    Cost,
    FloatArray,
    exchange_s,
    exposed_s,
)
from .jitter import Slowest, StepTimes
from .topology import Link, Topology

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Spread:
    """A positive quantity known roughly: median, 5% and 95% quantiles; log-normal on either side of the
    median.
    """

    median: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> FloatArray:
        z = rng.standard_normal(_DRAWS) / 1.645
        return self.median * np.where(z < 0, (self.median / self.low) ** z, (self.high / self.median) ** z)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no data sheet states, each with its source. None is fitted to a published scaling result."""

    # Share of the stated bandwidth that collectives reach. NCCL's authors: about 20% protocol overhead on
    # NVLink (nccl-tests issue 212); 84.8 GB/s on average and 96 at best of 100 on 4 x HDR (nccl-tests issue
    # 119).
    bandwidth_share: Spread = Spread(0.82, 0.65, 0.95)
    latency_factor: Spread = Spread(1.0, 0.5, 3.0)
    # Standard deviation of equal GPUs' speed. Sinha et al. 2022 (arXiv 2208.11035): variation of 8% on
    # average and 22% at most, taken as the width between box-plot whiskers (four to five standard
    # deviations).
    jitter: Spread = Spread(0.018, 0.009, 0.045)
    # Measured step times; they take the place of `jitter`, which then only says how much GPUs that were not
    # measured may differ. Without them a GPU that is slow stays slow, and one that was measured alone was
    # slow or fast by chance.
    step_times: StepTimes | None = None
    # Slow-down of computing while an exchange runs beside it. Lee et al. 2025 (arXiv 2507.03114): 18.9% on
    # average, 40% at most.
    overlap_slowdown: Spread = Spread(0.19, 0.05, 0.40)
    # Share of the exchange that never hides, by the implementation's making: near 0 for a tuned one, most of
    # it for one without overlap.
    unhidden: Spread = Spread(0.08, 0.01, 0.60)
    # Share of the boost clock's headroom (data sheet) that a GPU loses when all GPUs of its node are busy. A
    # judgement, not a source.
    boost_lost: Spread = Spread(0.10, 0.02, 0.30)
    # Relative standard deviation of a stated throughput. A judgement.
    measurement: float = 0.01
    # The next two matter only where a question changes the images a GPU passes at once, or the arithmetic.
    # Share of a pass that does not shrink with its images (kernel starts, layers too small to fill the GPU).
    # A judgement.
    fixed_compute: Spread = Spread(0.08, 0.01, 0.25)
    # Share of computing that is limited by arithmetic and moves with the data sheet's peak; the rest is
    # limited by memory, and moves with the bytes of a value (the two kinds: Micikevicius et al. 2018, section
    # 1). How large it is: a judgement.
    arithmetic_limited: Spread = Spread(0.5, 0.3, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's work in a step, however many ranks there are."""

    buckets: Buckets
    images: float  # per GPU and pass
    passes: int = 1  # forward and backward passes a step
    optimizer_s: float = 0.0
    zero_stage: int = 0
    peak_tflops: float | None = None  # of the data sheet, in the type computed in; None: not known
    value_bytes: int = 4
    overlaps: bool = True  # False: the exchange begins when backward has ended, as in DeepSpeed's stage 0
    loader_images_per_s: Spread | None = None  # of a whole node; None: the loader never limits

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
    """Predicts steps of `job` on `topology`; every size is drawn from the same uncertain world."""

    def __init__(
        self,
        job: Job,
        topology: Topology,
        *,
        algorithm: Algorithm = "auto",
        assumptions: Assumptions | None = None,
        seed: int = 0,
    ):
        self.job = job
        self.topology = topology
        self.algorithm = algorithm
        assumptions = assumptions or Assumptions()
        rng = np.random.default_rng(seed)
        self.inside = _cost(topology.inside, 1, assumptions, rng)
        self.between = _cost(topology.between, topology.links, assumptions, rng)
        self.jitter = assumptions.jitter.draw(rng)
        self.overlap_slowdown = assumptions.overlap_slowdown.draw(rng)
        self.unhidden = np.minimum(assumptions.unhidden.draw(rng), 1.0)
        self.node_sharing = topology.boost_headroom * assumptions.boost_lost.draw(rng)
        self.loader = job.loader_images_per_s.draw(rng) if job.loader_images_per_s else None
        self.noise = assumptions.measurement * rng.standard_normal((2, _DRAWS))
        self._luck = (rng.random(_DRAWS), rng.random(_DRAWS))
        self.fixed_compute = np.minimum(assumptions.fixed_compute.draw(rng), 1.0)
        self.arithmetic_limited = np.minimum(assumptions.arithmetic_limited.draw(rng), 1.0)
        times = assumptions.step_times
        self._slowest_of = Slowest(times, self.jitter, rng) if times else None

    def predict(
        self,
        sizes: Sequence[int],
        *,
        measured_step_s: float,
        measured_on: int,
        calibrated: "StepModel | None" = None,
        global_batch: int | None = None,
    ) -> list[Prediction]:
        """Predict every size in `sizes` from one measured step of `measured_on` GPUs.

        Where this model's job or links differ from what was measured, `calibrated` is the model of the
        measurement. Efficiency is against the measured throughput. `global_batch` is for strong scaling: the
        images of a step are shared out, however many GPUs there are.
        """
        reference = calibrated or self
        measured = reference.solve_compute(measured_step_s, measured_on)
        baseline = reference.job.step_images / measured_step_s
        models = {size: self.split(global_batch, size) if global_batch else self for size in sizes}
        return [
            models[size]._summary(
                size,
                measured * models[size]._compute_against(reference),
                baseline,
                is_baseline=size == measured_on,
                strong=bool(global_batch),
            )
            for size in sizes
        ]

    def split(self, global_batch: int, gpus: int) -> "StepModel":
        """The same model where `global_batch` images are shared out over `gpus`. Raises RecipeError where a
        pass would be less than one.
        """
        images = global_batch / (gpus * self.job.passes)
        if images < 1:
            raise RecipeError(
                f"a batch of {global_batch} images cannot be cut over {gpus} GPUs in {self.job.passes} "
                "pass(es): ask for fewer"
            )
        smaller = copy.copy(self)
        smaller.job = replace(self.job, images=images)
        return smaller

    def _compute_against(self, reference: "StepModel") -> FloatArray:
        """Computing time of this job's step over that of the reference's."""
        ours, theirs = self.job, reference.job
        images = self.fixed_compute + (1 - self.fixed_compute) * ours.images / theirs.images
        factor = ours.passes / theirs.passes * images
        if ours.peak_tflops and theirs.peak_tflops:
            arithmetic = theirs.peak_tflops / ours.peak_tflops
            factor = factor * (
                self.arithmetic_limited * arithmetic
                + (1 - self.arithmetic_limited) * ours.value_bytes / theirs.value_bytes
            )
        return np.asarray(factor, dtype=np.float64)

    def solve_compute(self, step_s: float, gpus: int) -> FloatArray:
        """The computing time, per draw, for which the modelled step on `gpus` GPUs takes `step_s`; by
        bisection, to 1e-9 of it.
        """
        low, high = np.zeros(_DRAWS), np.full(_DRAWS, step_s)
        for _ in range(30):
            middle = (low + high) / 2
            too_long = sum(self.parts(middle, gpus, baseline=True).values()) > step_s
            low, high = np.where(too_long, low, middle), np.where(too_long, middle, high)
        return (low + high) / 2

    def parts(self, compute: FloatArray, gpus: int, *, baseline: bool = False) -> dict[str, FloatArray]:
        """Seconds by cause, per draw; their sum is the step."""
        job, (in_node, _) = self.job, self.topology.layout(gpus)
        # From stage 2 on gradients are sharded, so every pass sends them; before, the last pass of a step
        # does.
        windows = job.passes if job.zero_stage >= 2 else 1
        exposed, hidden, fetch = self._exchange(
            compute / windows, job.buckets.accumulated(job.passes // windows), gpus
        )
        parts = {
            "compute": compute,
            "overlap": windows * self.overlap_slowdown * hidden,
            "communication": windows * exposed + fetch,
            "stragglers": compute
            * (self._slowest(gpus, baseline=baseline) + self.node_sharing * (1 - 1 / in_node)),
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
        exposed = at_least + (self.unhidden if self.job.overlaps else 1.0) * (total - at_least)
        return exposed, total - exposed

    def _costs(self, num_bytes: float, gpus: int) -> tuple[FloatArray, FloatArray]:
        """Seconds to reduce a bucket's gradients, and to fetch its weights where that is not part of it."""
        local, remote = exchange_s(
            num_bytes, gpus, self.topology, inside=self.inside, between=self.between, algorithm=self.algorithm
        )
        if self.job.zero_stage:
            return (local + remote) / 2, (local + remote) / 2
        fetch = remote / 2 if self.algorithm == "parameter-server" else 0 * remote
        return local + remote - fetch, fetch

    def _slowest(self, gpus: int, *, baseline: bool) -> FloatArray:
        """By how much of its computing time a rank waits for the slowest."""
        if self._slowest_of:
            return self._slowest_of(gpus) - 1
        # The largest of so many standard normal draws, by the inverse of its distribution.
        return self.jitter * np.asarray(
            ndtri(self._luck[0 if baseline else 1] ** (1 / gpus)), dtype=np.float64
        )

    def _summary(
        self, gpus: int, compute: FloatArray, baseline: float, *, is_baseline: bool, strong: bool
    ) -> Prediction:
        parts = self.parts(compute, gpus, baseline=is_baseline)
        step = np.sum(list(parts.values()), axis=0)
        noise = 0.0 if is_baseline else self.noise[0] - self.noise[1]
        rate = self.job.step_images / step * (1 + noise)
        low, middle, high = np.quantile(rate, [0.05, 0.5, 0.95])
        _, nodes = self.topology.layout(gpus)
        return Prediction(
            gpus=gpus, nodes=nodes,
            images_per_s=float(middle * gpus), images_per_s_low=float(low * gpus), images_per_s_high=float(high * gpus),
            efficiency=float(middle / baseline), efficiency_low=float(low / baseline), efficiency_high=float(high / baseline),
            step_s=float(np.median(step)), mode="strong" if strong else "weak", global_batch=round(gpus * self.job.step_images),
            shares={cause: float(np.mean(part / step)) for cause, part in parts.items()},
        )  # fmt: skip


def _cost(link: Link, links: int, assumptions: Assumptions, rng: np.random.Generator) -> Cost:
    share = np.minimum(assumptions.bandwidth_share.draw(rng), 1.0)
    return Cost(link.latency_s * assumptions.latency_factor.draw(rng), 1 / (link.bytes_per_s * links * share))
