"""A prediction asked from flags alone: model, one throughput, and the names of the links."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lbtrain.errors import RecipeError
from tools.scaling_report.comm_model import Algorithm, fill_buckets
from tools.scaling_report.layers import BYTES, counted_layers
from tools.scaling_report.step_model import Assumptions, Job, Prediction, Spread, StepModel
from tools.scaling_report.topology import GPUS, NETWORKS, NODE_LINKS, Topology, preset
from tools.scaling_report.what_if import WhatIf

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
    mode: Literal["weak", "strong"] = (
        "weak"  # strong: the images of the measured step, whatever the number of GPUs
    )
    cpu_cores: int | None = None  # of a node, decoding JPEG; None: synthetic data, or a loader that keeps up

    def __post_init__(self) -> None:
        for name in ("images_per_sec", "measured_on", "micro_batch", "gpus_per_node", "links"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.dtype not in BYTES:
            raise RecipeError(f"no gradient type {self.dtype!r}; there are {', '.join(BYTES)}")
        if self.zero not in (0, 1, 2, 3):
            raise RecipeError(f"no ZeRO stage {self.zero}; there are 0, 1, 2, 3")

    @property
    def step_s(self) -> float:
        """Seconds of the measured step, which held one micro-batch a GPU."""
        return self.micro_batch * self.measured_on / self.images_per_sec

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

    def answer(
        self, sizes: Sequence[int], *, what_if: WhatIf | None = None, assumptions: Assumptions | None = None
    ) -> list[Prediction]:
        """Predict `sizes`; efficiency is against the measured throughput, whatever `what_if` changes."""
        what_if = what_if or WhatIf()
        job, topology = self.job(), self.topology()
        measured = StepModel(job, topology, algorithm=self.algorithm, assumptions=assumptions)
        asked = what_if.job(job, exchanged=self.dtype, gpu=self.gpu)
        changed = StepModel(
            asked, what_if.topology(topology), algorithm=self.algorithm, assumptions=assumptions
        )
        batch = int(self.measured_on * asked.step_images) if self.mode == "strong" else None
        return changed.predict(
            sizes,
            calibrated=measured,
            measured_step_s=self.step_s,
            measured_on=self.measured_on,
            global_batch=batch,
        )
