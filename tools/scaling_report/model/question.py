"""A prediction asked from flags alone: model, one throughput or more, and the names of GPU and links."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lbtrain.errors import RecipeError

from .assumptions import Assumptions, Spread
from .baseline import Baseline, Mode, WhatIf
from .comm import Algorithm
from .layers import BYTES, VALUE_BYTES, of_model
from .prediction import Prediction
from .presets import GPUS, NETWORKS, NODE_LINKS, preset
from .step import Job
from .topology import Topology

# JPEG decoding, random crop and normalisation of an ImageNet picture, images/s of one core. Decoding alone:
# 360 to 860 over libraries and processors of 2020 to 2025 (imread-benchmark); the crop's resize and older
# processors take off up to two thirds.
DECODED_PER_CORE = Spread(250, 120, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a buyer knows. `images_per_sec` is the throughput of all `measured_on` GPUs together;
    `more_rates` holds further measured sizes of the same job.
    """

    model: str | None = None  # None: `gradient_bytes` holds the size of all gradients
    images_per_sec: float
    measured_on: int
    micro_batch: int
    more_rates: tuple[tuple[int, float], ...] = ()
    gpus_per_node: int = 8
    network: str = "ib-edr-100"
    links: int = 1
    gpu: str | None = None
    node_link: str | None = None  # None: the GPU's own, or NVLink 2
    dtype: str = "fp32"  # of arithmetic
    gradient_bytes: float = 4  # of an exchanged value; above 8, of all gradients of the model as exchanged
    zero: int = 0
    algorithm: Algorithm = "auto"
    overlaps: bool = True
    mode: Mode = "weak"  # strong: the images of the measured step, whatever the number of GPUs
    cpu_cores: int | None = None  # of a node, decoding JPEG; None: synthetic data, or a loader that keeps up

    def __post_init__(self) -> None:
        for name in ("images_per_sec", "measured_on", "micro_batch", "gpus_per_node", "links"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.dtype not in BYTES:
            raise RecipeError(f"{self.dtype!r} is not a type of arithmetic: choose {', '.join(BYTES)}")
        if self.zero not in (0, 1, 2, 3):
            raise RecipeError(f"there is no ZeRO stage {self.zero}: choose 0, 1, 2 or 3")
        if self.model is None and self.gradient_bytes <= VALUE_BYTES:
            raise RecipeError("without --model, --gradient-bytes must be the size of all gradients (178MB)")

    def topology(self) -> Topology:
        between = preset(self.network, NETWORKS)
        gpu = preset(self.gpu, GPUS) if self.gpu else None
        inside = preset(self.node_link or (gpu.node_link if gpu else "nvlink2"), NODE_LINKS)
        topology = Topology(self.gpus_per_node, inside, between, self.links)
        return dataclasses.replace(topology, boost_headroom=gpu.boost_headroom) if gpu else topology

    def job(self) -> Job:
        gpu = preset(self.gpu, GPUS) if self.gpu else None
        rates = (DECODED_PER_CORE.median, DECODED_PER_CORE.low, DECODED_PER_CORE.high)
        return Job(
            images=self.micro_batch,
            zero_stage=self.zero,
            peak_tflops=gpu.tflops.get(self.dtype) if gpu else None,
            value_bytes=BYTES[self.dtype],
            half=BYTES[self.dtype] == 2 and (gpu is None or self.dtype in gpu.tflops),
            overlaps=self.overlaps,
            loader_images_per_s=Spread(*(self.cpu_cores * rate for rate in rates))
            if self.cpu_cores
            else None,
            **of_model(self.model, self.gradient_bytes),
        )

    def baseline(self, assumptions: Assumptions | None = None) -> Baseline:
        return Baseline(
            job=self.job(),
            topology=self.topology(),
            rates=((self.measured_on, self.images_per_sec), *self.more_rates),
            gpu=self.gpu,
            network=self.network,
            algorithm=self.algorithm,
            assumptions=assumptions,
        )

    def answer(
        self, sizes: Sequence[int], *, what_if: WhatIf | None = None, assumptions: Assumptions | None = None
    ) -> list[Prediction]:
        """Predict `sizes`; efficiency is against the measured throughput, whatever `what_if` changes."""
        return self.baseline(assumptions).predict(sizes, what_if=what_if, mode=self.mode)
