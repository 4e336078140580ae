"""How long a synchronous step takes on n GPUs, with an interval that says how much of that is assumption.

    step(n) = slowest of n ranks' (compute + overlap slow-down) + exposed communication + optimizer,  at least the loader's time

Compute is not assumed: it is solved from one measured throughput, so that the model reproduces it exactly. What a data sheet cannot say
is drawn from `Assumptions`; a prediction is the median of the draws, its interval their 5% and 95% quantiles. Draws are seeded: the same
question has the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from lbtrain.cluster.comm_model import Algorithm, Buckets, Cost, FloatArray, exchange_s, exposed_s
from lbtrain.cluster.topology import Link, Topology

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Spread:
    """A positive quantity known roughly: median, 5% and 95% quantiles; log-normal on either side of the median."""

    median: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> FloatArray:
        z = rng.standard_normal(_DRAWS) / 1.645
        return self.median * np.where(z < 0, (self.median / self.low) ** z, (self.high / self.median) ** z)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no data sheet states, each with its source. None is fitted to a published scaling result."""

    # Share of the stated bandwidth that collectives reach. NCCL's authors: about 20% protocol overhead on NVLink (nccl-tests issue 212);
    # 84.8 GB/s on average and 96 at best of 100 on 4 x HDR (nccl-tests issue 119).
    bandwidth_share: Spread = Spread(0.82, 0.65, 0.95)
    latency_factor: Spread = Spread(1.0, 0.5, 3.0)
    # Standard deviation of equal GPUs' speed. Sinha et al. 2022 (arXiv 2208.11035): variation of 8% on average and 22% at most, taken as
    # the width between box-plot whiskers (four to five standard deviations).
    jitter: Spread = Spread(0.018, 0.009, 0.045)
    # Whether a GPU that is slow stays slow, and one measured alone is slow or fast by chance (GPUs differ); False: it varies step by step
    # (a measured distribution), and what counts is the mean of the slowest.
    jitter_lasts: bool = True
    # Slow-down of computing while an exchange runs beside it. Lee et al. 2025 (arXiv 2507.03114): 18.9% on average, 40% at most.
    overlap_slowdown: Spread = Spread(0.19, 0.05, 0.40)
    # Share of the exchange that never hides, by the implementation's making: near 0 for a tuned one, most of it for one without overlap.
    unhidden: Spread = Spread(0.08, 0.01, 0.60)
    # Share of the boost clock's headroom (data sheet) that a GPU loses when all GPUs of its node are busy. A judgement, not a source.
    boost_lost: Spread = Spread(0.10, 0.02, 0.30)
    # Relative standard deviation of a stated throughput. A judgement.
    measurement: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's work in a step, however many ranks there are."""

    buckets: Buckets
    images: int  # per GPU and step
    optimizer_s: float = 0.0
    zero_stage: int = 0
    overlaps: bool = True  # False: the exchange begins when backward has ended, as in DeepSpeed's stage 0
    loader_images_per_s: Spread | None = None  # of a whole node; None: the loader never limits


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
    shares: dict[str, float] = field(default_factory=dict)


class StepModel:
    """Predicts steps of `job` on `topology`; every size is drawn from the same uncertain world."""

    def __init__(
        self, job: Job, topology: Topology, *, algorithm: Algorithm = "auto", assumptions: Assumptions | None = None, seed: int = 0
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
        lasting = assumptions.jitter_lasts
        self._luck = (rng.random(_DRAWS), rng.random(_DRAWS)) if lasting else None

    def predict(
        self, sizes: Sequence[int], *, measured_step_s: float, measured_on: int, calibrated: "StepModel | None" = None
    ) -> list[Prediction]:
        """Predict every size in `sizes` from one measured step of `measured_on` GPUs.

        Where this model's job or links differ from what was measured, `calibrated` is the model of the measurement. Computing time follows
        the number of images; efficiency is against the measured throughput.
        """
        reference = calibrated or self
        compute = reference.solve_compute(measured_step_s, measured_on) * (self.job.images / reference.job.images)
        baseline = reference.job.images / measured_step_s
        return [self._summary(size, compute, baseline, is_baseline=size == measured_on) for size in sizes]

    def solve_compute(self, step_s: float, gpus: int) -> FloatArray:
        """The computing time, per draw, for which the modelled step on `gpus` GPUs takes `step_s`; by bisection, to 1e-9 of it."""
        low, high = np.zeros(_DRAWS), np.full(_DRAWS, step_s)
        for _ in range(30):
            middle = (low + high) / 2
            too_long = sum(self.parts(middle, gpus, baseline=True).values()) > step_s
            low, high = np.where(too_long, low, middle), np.where(too_long, middle, high)
        return (low + high) / 2

    def parts(self, compute: FloatArray, gpus: int, *, baseline: bool = False) -> dict[str, FloatArray]:
        """Seconds by cause, per draw; their sum is the step."""
        job, (in_node, _) = self.job, self.topology.layout(gpus)
        exchanges = [self._exchange(size, gpus) for size in job.buckets.num_bytes]
        reduced = [reduce for reduce, _ in exchanges]
        gather = np.sum([fetch for _, fetch in exchanges], axis=0)
        reduction = np.sum(reduced, axis=0)
        at_least = exposed_s(compute, job.buckets.ready, reduced)
        exposed = at_least + (self.unhidden if job.overlaps else 1.0) * (reduction - at_least)
        parts = {
            "compute": compute,
            "overlap": self.overlap_slowdown * (reduction - exposed),
            "communication": exposed + gather,
            "stragglers": compute * (self.jitter * self._slowest(gpus, baseline=baseline) + self.node_sharing * (1 - 1 / in_node)),
            "optimizer": np.full_like(compute, job.optimizer_s / (gpus if job.zero_stage else 1)),
        }
        step = np.sum(list(parts.values()), axis=0)
        needed = 0.0 if self.loader is None else job.images * in_node / self.loader
        return parts | {"data": np.maximum(needed - step, 0.0)}

    def _exchange(self, num_bytes: float, gpus: int) -> tuple[FloatArray, FloatArray]:
        """Seconds to reduce a bucket's gradients, and to fetch its weights after the optimizer where that is a phase of its own."""
        local, remote = exchange_s(num_bytes, gpus, self.topology, inside=self.inside, between=self.between, algorithm=self.algorithm)
        if self.job.zero_stage:
            return (local + remote) / 2, (local + remote) / 2
        fetch = remote / 2 if self.algorithm == "parameter-server" else 0 * remote
        return local + remote - fetch, fetch

    def _slowest(self, gpus: int, *, baseline: bool) -> FloatArray:
        """The largest of `gpus` standard normal draws: drawn where it lasts, by the inverse of its distribution; else its mean."""
        if self._luck is None:
            return np.full(_DRAWS, expected_maximum(gpus))
        return normal_quantile(self._luck[0 if baseline else 1] ** (1 / gpus))

    def _summary(self, gpus: int, compute: FloatArray, baseline: float, *, is_baseline: bool) -> Prediction:
        parts = self.parts(compute, gpus, baseline=is_baseline)
        step = np.sum(list(parts.values()), axis=0)
        noise = 0.0 if is_baseline else self.noise[0] - self.noise[1]
        rate = self.job.images / step * (1 + noise)
        low, middle, high = np.quantile(rate, [0.05, 0.5, 0.95])
        _, nodes = self.topology.layout(gpus)
        return Prediction(
            gpus=gpus, nodes=nodes,
            images_per_s=float(middle * gpus), images_per_s_low=float(low * gpus), images_per_s_high=float(high * gpus),
            efficiency=float(middle / baseline), efficiency_low=float(low / baseline), efficiency_high=float(high / baseline),
            step_s=float(np.median(step)), shares={cause: float(np.mean(part / step)) for cause, part in parts.items()},
        )  # fmt: skip


def expected_maximum(number: int) -> float:
    """Mean of the largest of `number` standard normal draws; by the midpoints of 20,000 equal slices of its distribution, to 1e-3."""
    slices = (np.arange(20_000) + 0.5) / 20_000
    return float(np.mean(normal_quantile(slices ** (1 / number))))


def normal_quantile(probability: FloatArray) -> FloatArray:
    """Quantile of the standard normal distribution."""
    return np.asarray(ndtri(probability), dtype=np.float64)


def _cost(link: Link, links: int, assumptions: Assumptions, rng: np.random.Generator) -> Cost:
    share = np.minimum(assumptions.bandwidth_share.draw(rng), 1.0)
    return Cost(link.latency_s * assumptions.latency_factor.draw(rng), 1 / (link.bytes_per_s * links * share))
