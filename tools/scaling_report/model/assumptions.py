"""What no data sheet says of a cluster: ranges with their sources, and draws from them.

A prediction is the median over the draws, its interval their 5% and 95% quantiles. Draws are seeded: the same
question has the same answer.
"""

from dataclasses import dataclass

import numpy as np

from .comm import FloatArray
from .jitter import Slowest, StepTimes


@dataclass(frozen=True, slots=True)
class Spread:
    """A positive quantity known roughly: median, 5% and 95% quantiles; log-normal on either side of the
    median.
    """

    median: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator, number: int) -> FloatArray:
        return self.at(rng.standard_normal(number))

    def at(self, normal: FloatArray) -> FloatArray:
        """The value at each of these standard normal draws."""
        z = normal / 1.645
        return self.median * np.where(z < 0, (self.median / self.low) ** z, (self.high / self.median) ** z)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no data sheet states, each with its source. Those marked "published" were chosen by leaving whole
    publications out (bench/scaling_prediction.py); nothing else is fitted to a published scaling result.
    """

    # Share of the stated bandwidth that collectives reach. NCCL's authors: about 20% protocol overhead on
    # NVLink (nccl-tests issue 212); 84.8 GB/s on average and 96 at best of 100 on 4 x HDR (nccl-tests issue
    # 119).
    bandwidth_share: Spread = Spread(0.82, 0.65, 0.95)
    # What TCP sockets reach at most of one port, in Gbit/s: a single flow gets 5 to 10 (AWS EC2, "network
    # bandwidth": 10 within a cluster placement group), and NCCL opens a few.
    tcp_gbit: Spread = Spread(25, 8, 75)
    latency_factor: Spread = Spread(1.0, 0.5, 3.0)
    # Standard deviation of equal GPUs' speed. Sinha et al. 2022 (arXiv 2208.11035): variation of 8% on
    # average and 22% at most, taken as the width between box-plot whiskers (four to five standard
    # deviations).
    jitter: Spread = Spread(0.018, 0.009, 0.045)
    # Measured step times; they take the place of `jitter`, which then only says how much GPUs that were not
    # measured may differ. Without them a GPU that is slow stays slow, and one that was measured alone was
    # slow or fast by chance.
    step_times: StepTimes | None = None
    # Standard deviation of one image's time, relative: detectors take images of many sizes and numbers of
    # objects. Photos of COCO, resized as detectron2 does, differ by 0.17 in area; the heads add to it.
    uneven_images: Spread = Spread(0.10, 0.04, 0.25)
    # Slow-down of computing while an exchange runs beside it. Lee et al. 2025 (arXiv 2507.03114): 18.9% on
    # average, 40% at most.
    overlap_slowdown: Spread = Spread(0.19, 0.05, 0.40)
    # Share of the exchange that never hides, by the implementation's making: near 0 for a tuned one, most of
    # it for one without overlap.
    unhidden: Spread = Spread(0.06, 0.01, 0.40)
    # Share of the boost clock's headroom (data sheet) that a GPU loses when all GPUs of its node are busy. A
    # judgement, not a source.
    boost_lost: Spread = Spread(0.10, 0.02, 0.30)
    # What software costs once ranks run together, as a share of computing: launches, input and host memory
    # shared inside a node; file systems, daemons and slow nodes between nodes. Published. It costs
    # `half_factor` times as much in half precision, where computing takes less time beside it.
    software_inside: Spread = Spread(0.008, 0.001, 0.04)
    software_between: Spread = Spread(0.01, 0.001, 0.06)
    half_factor: Spread = Spread(4.5, 2.0, 8.0)
    # Relative standard deviation of a stated throughput. A judgement.
    measurement: float = 0.01
    # The next two matter only where a question changes the images a GPU takes at once, or the arithmetic.
    # What a pass costs beside its images (kernel starts, layers too small to fill the GPU), in images of
    # ResNet-50 at 224 pixels: 9 on a P100 (the TensorFlow tables of 2017: 219 images/s at 64, 195 at 32), 10
    # to 15 on an A100 (MLPerf v1.1: 408 and 51 images). Published.
    pass_images: Spread = Spread(9, 4, 20)
    # Share of computing that is limited by arithmetic and moves with the data sheet's peak; the rest is
    # limited by memory, and moves with the bytes of a value (the two kinds: Micikevicius et al. 2018, section
    # 1). How large it is: a judgement.
    arithmetic_limited: Spread = Spread(0.5, 0.3, 0.8)
    draws: int = 2000


class World:
    """Draws of everything that is assumed: the same ones whatever is asked about them."""

    def __init__(self, assumptions: Assumptions, seed: int = 0):
        rng, self.draws = np.random.default_rng(seed), assumptions.draws
        self.share_inside, self.share_between = (
            np.minimum(assumptions.bandwidth_share.draw(rng, self.draws), 1.0) for _ in range(2)
        )
        self.tcp_bytes_per_s = assumptions.tcp_gbit.draw(rng, self.draws) * 1e9 / 8
        self.latency_inside, self.latency_between = (
            assumptions.latency_factor.draw(rng, self.draws) for _ in range(2)
        )
        self.jitter = assumptions.jitter.draw(rng, self.draws)
        self.uneven = assumptions.uneven_images.draw(rng, self.draws)
        self.overlap_slowdown = assumptions.overlap_slowdown.draw(rng, self.draws)
        self.unhidden = np.minimum(assumptions.unhidden.draw(rng, self.draws), 1.0)
        self.boost_lost = assumptions.boost_lost.draw(rng, self.draws)
        self.software_inside = assumptions.software_inside.draw(rng, self.draws)
        self.software_between = assumptions.software_between.draw(rng, self.draws)
        self.half_factor = assumptions.half_factor.draw(rng, self.draws)
        self.pass_images = assumptions.pass_images.draw(rng, self.draws)
        self.arithmetic_limited = np.minimum(assumptions.arithmetic_limited.draw(rng, self.draws), 1.0)
        self.measurement = assumptions.measurement
        self.luck = rng.random((2, self.draws))
        self.loader = rng.standard_normal(self.draws)
        times = assumptions.step_times
        self.slowest_of = Slowest(times, self.jitter, rng) if times else None

    def noise(self, measurements: int) -> FloatArray:
        """By how much so many stated throughputs are off, relative: a row of draws each."""
        normal = np.random.default_rng(1).standard_normal((measurements, self.draws))
        return self.measurement * normal
