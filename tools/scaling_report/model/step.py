"""How long a synchronous step takes on n GPUs, with an interval that says how much of that is assumption.

    step(n) = compute + overlap slow-down + exposed communication + stragglers + software + optimizer,  at
              least the loader's time

What a data sheet cannot say is drawn from `Assumptions`; what measured steps say of the rest is in
prediction.py.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from lbtrain.errors import RecipeError

from .assumptions import Assumptions, Spread, World
from .comm import FORWARD_SHARE, Algorithm, Buckets, Cost, FloatArray, exchange_s, exposed_s
from .presets import Link
from .topology import Topology

RESNET50_WORK = 4.1e9  # multiply-adds of an image of 224 pixels (He et al. 2016, table 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's work in a step, however many ranks there are."""

    buckets: Buckets
    images: float  # of a GPU and micro-step
    accumulation: int = 1  # micro-steps of a step
    optimizer_s: float = 0.0
    zero_stage: int = 0
    peak_tflops: float | None = None  # of the data sheet, in the type computed in; None: not known
    value_bytes: int = 4  # of what is computed with
    gradient_bytes: float = 4  # of a value that is exchanged; autocast keeps gradients in fp32
    half: bool = False  # computed in half precision, on units that are fast in it
    overlaps: bool = True  # False: the exchange begins when backward has ended, as in DeepSpeed's stage 0
    loader_images_per_s: Spread | None = None  # of a whole node; None: the loader never limits
    work: float | None = None  # multiply-adds of one image's forward pass; None: not known, as ResNet-50's
    uneven: bool = False  # images differ in size and content, as a detector's do

    @property
    def step_images(self) -> float:
        return self.images * self.accumulation


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

    def split(self, global_batch: int, gpus: int) -> "StepModel":
        """The same model where `global_batch` images are shared out over `gpus`. Raises RecipeError where a
        micro-step would have less than one.
        """
        images = global_batch / (gpus * self.job.accumulation)
        if images < 1:
            most = global_batch // self.job.accumulation
            raise RecipeError(
                f"A batch of {global_batch} images cannot be split over {gpus} GPUs in "
                f"{self.job.accumulation} micro-step(s). At most {most} GPUs can share it."
            )
        smaller = copy.copy(self)
        smaller.job = replace(self.job, images=images)
        return smaller

    def with_links(self, factor: FloatArray) -> "StepModel":
        """The same model where every exchange takes `factor` of its time."""
        other = copy.copy(self)
        other._exchanged = {}
        other.inside, other.between = (
            Cost(factor * each.latency_s, factor * each.s_per_byte) for each in (self.inside, self.between)
        )
        return other

    def compute_against(self, reference: "StepModel") -> FloatArray:
        """Computing time of this job's step over that of the reference's."""
        ours, theirs = self.job, reference.job
        fixed = self.world.pass_images * RESNET50_WORK / (ours.work or RESNET50_WORK)
        factor = ours.accumulation / theirs.accumulation * (ours.images + fixed) / (theirs.images + fixed)
        if ours.peak_tflops and theirs.peak_tflops:
            arithmetic = theirs.peak_tflops / ours.peak_tflops
            limited = self.world.arithmetic_limited
            factor = factor * (limited * arithmetic + (1 - limited) * ours.value_bytes / theirs.value_bytes)
        return np.asarray(factor, dtype=np.float64)

    def solve_compute(self, step_s: float, gpus: int) -> FloatArray:
        """The computing time, per draw, for which the modelled step on `gpus` GPUs takes `step_s`; by
        bisection, to 1e-9 of it.
        """
        return _solve(
            lambda compute: self._step(compute, gpus), step_s, most=np.full(self.world.draws, 2 * step_s)
        )

    def solve_links(self, compute: FloatArray, step_s: float, gpus: int) -> FloatArray:
        """What exchanges take, per draw and relative to the model's, for which the step takes `step_s`; at
        most 1.
        """
        return _solve(
            lambda factor: self.with_links(factor)._step(compute, gpus), step_s, most=np.ones_like(compute)
        )

    def _step(self, compute: FloatArray, gpus: int) -> FloatArray:
        return np.asarray(np.sum(list(self.parts(compute, gpus, baseline=True).values()), axis=0))

    def parts(self, compute: FloatArray, gpus: int, *, baseline: bool = False) -> dict[str, FloatArray]:
        """Seconds by cause, per draw; their sum is the step. `baseline`: on the GPUs that were measured."""
        job, (in_node, nodes), world = self.job, self.topology.layout(gpus), self.world
        # From stage 2 on gradients are sharded, so every micro-step sends them; before, the last one does.
        windows = job.accumulation if job.zero_stage >= 2 else 1
        exposed, hidden, fetch = self._exchange(
            compute / windows, job.buckets.accumulated(job.accumulation // windows), gpus
        )
        clocks = self.topology.boost_headroom * world.boost_lost * (1 - 1 / in_node)
        # Between nodes software costs nothing on one, and half of its all on two.
        software = world.software_inside * (1 - 1 / in_node) + world.software_between * (1 - 1 / nodes)
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


def _solve(seconds: Callable[[FloatArray], FloatArray], wanted: float, *, most: FloatArray) -> FloatArray:
    """Where rising `seconds` reach `wanted`, per draw; at most `most`."""
    low, high = 0 * most, most
    for _ in range(31):
        middle = (low + high) / 2
        too_long = seconds(middle) > wanted
        low, high = np.where(too_long, low, middle), np.where(too_long, middle, high)
    return (low + high) / 2


def _cost(link: Link, ports: int, share: FloatArray, latency_factor: FloatArray, world: World) -> Cost:
    per_s = link.bytes_per_s * share
    if link.tcp:
        per_s = np.minimum(per_s, world.tcp_bytes_per_s)
    return Cost(link.latency_s * latency_factor, 1 / (per_s * ports))
