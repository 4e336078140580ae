"""From what was measured to a prediction: the one road, whether flags or a measured run told the baseline.

`WhatIf` holds changes to the cluster or the job: `bandwidth=2x,micro_batch=64,accumulation=2,dtype=bf16,zero=1`.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lbtrain.errors import RecipeError

from .model.comm import Algorithm
from .model.layers import BYTES
from .model.step import Assumptions, Job, Prediction, StepModel
from .model.topology import GPUS, Topology, preset

Mode = Literal["weak", "strong"]


@dataclass(frozen=True)
class WhatIf:
    """changes, comma-separated: bandwidth=2x (between nodes), micro_batch=64 and accumulation=2 (images a GPU
    passes at once, and passes a step), dtype=bf16 (of exchanged gradients, and of arithmetic where --gpu
    names whose), zero=0|1|2|3
    """

    bandwidth: float = 1.0
    micro_batch: int | None = None
    accumulation: int | None = None
    dtype: str | None = None
    zero: int | None = None

    def topology(self, topology: Topology) -> Topology:
        return topology.with_bandwidth(self.bandwidth)

    def job(self, job: Job, *, exchanged: str, gpu: str | None) -> Job:
        """`job` changed, whose gradients are exchanged as `exchanged` and computed on `gpu`. Raises
        RecipeError for a type it lacks.
        """
        changes: dict[str, Any] = {
            "images": self.micro_batch, "passes": self.accumulation, "zero_stage": self.zero,
        }  # fmt: skip
        if self.dtype:
            changes |= {"buckets": job.buckets.scaled(BYTES[self.dtype] / BYTES[exchanged])}
            if gpu and job.peak_tflops:
                changes |= {"peak_tflops": peak_tflops(gpu, self.dtype), "value_bytes": BYTES[self.dtype]}
        return dataclasses.replace(
            job, **{name: value for name, value in changes.items() if value is not None}
        )

    def note(self, gpu: str | None) -> str:
        """What the reader must know of the answer; empty if nothing."""
        if self == WhatIf():
            return ""
        note = "efficiency is against the throughput that was measured, before the changes"
        if self.dtype and not gpu:
            note += f"; dtype={self.dtype}: only the exchanged bytes change, with --gpu computing changes too"
        return note

    def asked(self) -> dict[str, object]:
        changed = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value != getattr(WhatIf(), name)
        }
        return {"what_if": changed} if changed else {}


def peak_tflops(gpu: str, dtype: str) -> float:
    """The data sheet's rate of `gpu` in `dtype`. Raises RecipeError if it has none."""
    rates = preset(gpu, GPUS).tflops
    if dtype not in rates:
        raise RecipeError(f"{gpu} has no units for {dtype}; it computes fast in {', '.join(rates)}")
    return rates[dtype]


def parse_what_if(text: str) -> WhatIf:
    """The changes in `text`; argparse shows the reason if one is not understood."""
    changes: dict[str, object] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        try:
            changes[key] = _READ[key](value)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(
                f"{word!r} is not understood; there are bandwidth=2x, micro_batch=64, accumulation=2, "
                f"dtype={'|'.join(BYTES)}, zero=0|1|2|3"
            ) from None
    return WhatIf(**changes)  # type: ignore[arg-type]


def _factor(text: str) -> float:
    value = float(text.removesuffix("x"))
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    if not 0 < int(text) < 10**6:
        raise ValueError(text)
    return int(text)


_READ = {
    "bandwidth": _factor,
    "micro_batch": _count,
    "accumulation": _count,
    "dtype": lambda text: {name: name for name in BYTES}[text],
    "zero": lambda text: {"0": 0, "1": 1, "2": 2, "3": 3}[text],
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One measured throughput with the job and the cluster that gave it. `images_per_s` is of all `gpus`."""

    job: Job
    topology: Topology
    images_per_s: float
    gpus: int
    exchanged: str = "fp32"
    gpu: str | None = None
    network: str
    algorithm: Algorithm = "auto"
    assumptions: Assumptions | None = None

    def predict(
        self, sizes: Sequence[int], *, what_if: WhatIf | None = None, mode: Mode = "weak"
    ) -> list[Prediction]:
        """Predict `sizes`; efficiency is against the measured throughput, whatever `what_if` changes."""
        what_if = what_if or WhatIf()
        asked = what_if.job(self.job, exchanged=self.exchanged, gpu=self.gpu)
        return self._model(asked, what_if.topology(self.topology)).predict(
            sizes,
            calibrated=self._model(self.job, self.topology),
            measured_step_s=self.job.step_images * self.gpus / self.images_per_s,
            measured_on=self.gpus,
            global_batch=int(self.gpus * asked.step_images) if mode == "strong" else None,
        )

    def _model(self, job: Job, topology: Topology) -> StepModel:
        return StepModel(job, topology, algorithm=self.algorithm, assumptions=self.assumptions)

    def asked(self) -> dict[str, Any]:
        return {
            "images_per_sec": self.images_per_s,
            "measured_on": self.gpus,
            "micro_batch": self.job.images,
            "network": self.network,
            "gpu": self.gpu,
        }
