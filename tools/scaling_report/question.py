"""A prediction asked from flags alone: model, one throughput, and the names of the links."""

from collections.abc import Sequence
from dataclasses import dataclass

from lbtrain.errors import RecipeError

from .baseline import Baseline, Mode, WhatIf
from .model.comm import Algorithm, fill_buckets
from .model.layers import BYTES, counted_layers
from .model.step import Assumptions, Job, Prediction, Spread
from .model.topology import GPUS, NETWORKS, NODE_LINKS, Topology, preset

# JPEG decoding, random crop and normalisation of an ImageNet picture, images/s of one core. Decoding alone:
# 360 to 860 over libraries and processors of 2020 to 2025 (imread-benchmark); the crop's resize and older
# processors take off up to two thirds.
DECODED_PER_CORE = Spread(250, 120, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a buyer knows. `images_per_sec` is the throughput of all `measured_on` GPUs together."""

    model: str
    images_per_sec: float
    measured_on: int
    micro_batch: int
    gpus_per_node: int = 8
    network: str = "ib-edr-100"
    links: int = 1
    gpu: str | None = None
    node_link: str | None = None  # None: the GPU's own, or NVLink 2
    dtype: str = "fp32"
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
            raise RecipeError(f"no gradient type {self.dtype!r}; there are {', '.join(BYTES)}")
        if self.zero not in (0, 1, 2, 3):
            raise RecipeError(f"no ZeRO stage {self.zero}; there are 0, 1, 2, 3")

    def topology(self) -> Topology:
        between = preset(self.network, NETWORKS)
        if self.gpu is None:
            return Topology(
                self.gpus_per_node, preset(self.node_link or "nvlink2", NODE_LINKS), between, self.links
            )
        gpu = preset(self.gpu, GPUS)
        inside = preset(self.node_link or gpu.node_link, NODE_LINKS)
        return Topology(self.gpus_per_node, inside, between, self.links, gpu.boost_headroom)

    def job(self) -> Job:
        loader = None
        if self.cpu_cores:
            loader = Spread(
                *(
                    self.cpu_cores * rate
                    for rate in (DECODED_PER_CORE.median, DECODED_PER_CORE.low, DECODED_PER_CORE.high)
                )
            )
        return Job(
            buckets=fill_buckets(counted_layers(self.model, dtype=self.dtype)),
            images=self.micro_batch,
            zero_stage=self.zero,
            peak_tflops=preset(self.gpu, GPUS).tflops.get(self.dtype) if self.gpu else None,
            value_bytes=BYTES[self.dtype],
            overlaps=self.overlaps,
            loader_images_per_s=loader,
        )

    def baseline(self, assumptions: Assumptions | None = None) -> Baseline:
        return Baseline(
            job=self.job(),
            topology=self.topology(),
            images_per_s=self.images_per_sec,
            gpus=self.measured_on,
            exchanged=self.dtype,
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
