"""From measured throughput to a prediction: the same way for flags and for a measured run.

`WhatIf` holds changes to the cluster or the job: `bandwidth=2x,micro_batch=64,dtype=bf16,zero=1`.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lbtrain.errors import RecipeError

from .assumptions import Assumptions
from .comm import Algorithm, FloatArray
from .layers import BYTES
from .prediction import Calibration, Prediction, predict
from .presets import GPUS, preset
from .step import Job, StepModel
from .topology import Topology

Mode = Literal["weak", "strong"]


@dataclass(frozen=True)
class WhatIf:
    """changes, comma-separated: bandwidth=2x (between nodes), micro_batch=64 and accumulation=2 (images a GPU
    takes at once, and micro-steps a step), dtype=bf16 (of arithmetic; --gpu names whose), gradient_bytes=2
    (of an exchanged value), zero=0|1|2|3
    """

    bandwidth: float = 1.0
    micro_batch: int | None = None
    accumulation: int | None = None
    dtype: str | None = None
    gradient_bytes: int | None = None
    zero: int | None = None

    def job(self, job: Job, *, gpu: str | None) -> Job:
        """`job` changed, which is computed on `gpu`. Raises RecipeError for a type that it lacks."""
        changes: dict[str, Any] = {
            "images": self.micro_batch, "accumulation": self.accumulation, "zero_stage": self.zero,
        }  # fmt: skip
        if self.gradient_bytes:
            changes |= {
                "buckets": job.buckets.scaled(self.gradient_bytes / job.gradient_bytes),
                "gradient_bytes": self.gradient_bytes,
            }
        if self.dtype and gpu and job.peak_tflops:
            changes |= {"peak_tflops": peak_tflops(gpu, self.dtype), "value_bytes": BYTES[self.dtype]}
            changes |= {"half": BYTES[self.dtype] == 2}
        return dataclasses.replace(
            job, **{name: value for name, value in changes.items() if value is not None}
        )

    def note(self, gpu: str | None, measured_tflops: float | None) -> str:
        """What the reader must know of the answer about `gpu`, whose data sheet gives `measured_tflops` in
        the precision that was measured; empty if nothing.
        """
        if self == WhatIf():
            return ""
        note = "efficiency is against the throughput that was measured, before the changes"
        if self.dtype and not gpu:
            note += (
                f"; dtype={self.dtype} changes nothing without --gpu, which says how fast that is computed"
            )
        elif self.dtype and not measured_tflops:
            note += (
                f"; dtype={self.dtype} changes nothing, because {gpu} has no units for the precision that "
                "was measured"
            )
        return note

    def inputs(self) -> dict[str, object]:
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
                f"dtype={'|'.join(BYTES)}, gradient_bytes=2|4, zero=0|1|2|3"
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
    "gradient_bytes": lambda text: {"1": 1, "2": 2, "4": 4}[text],
    "zero": lambda text: {"0": 0, "1": 1, "2": 2, "3": 3}[text],
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One or more measured throughputs of one job (GPUs, images/s of all of them), and the cluster they come
    from.
    """

    job: Job
    topology: Topology
    rates: tuple[tuple[int, float], ...]
    gpu: str | None = None
    network: str
    algorithm: Algorithm = "auto"
    assumptions: Assumptions | None = None

    def predict(
        self, sizes: Sequence[int], *, what_if: WhatIf | None = None, mode: Mode = "weak"
    ) -> list[Prediction]:
        """Predict `sizes`; efficiency is against the measured throughput, whatever `what_if` changes."""
        what_if = what_if or WhatIf()
        changed = what_if.job(self.job, gpu=self.gpu)
        return predict(
            self._model(changed, self.topology.with_bandwidth(what_if.bandwidth)),
            sizes,
            calibrated=self._model(self.job, self.topology),
            measured=self._measured(),
            global_batch=int(min(self.rates)[0] * changed.step_images) if mode == "strong" else None,
        )

    def spread(self) -> float:
        """How far the measured sizes lie from what is modelled, in standard deviations; at least 1."""
        return self._calibration.spread

    def too_slow(self) -> bool:
        """Whether the links, as they are named, mostly take longer than the whole measured step."""
        return float(np.median(self._calibration.links)) < 1

    def learned(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Draws of shares that are assumed, before and after the measured sizes are known."""
        known = self._calibration
        world = known.reference.world
        half = world.half_factor if self.job.half else 1.0
        assumed = {
            "software inside a node, of computing": half * world.software_inside,
            "software between nodes, of computing": half * world.software_between,
            "bandwidth between nodes, of the link's": self._between(known.reference),
        }
        return {name: (draws, np.minimum(known.learned(draws), 1.0)) for name, draws in assumed.items()}

    def _between(self, model: StepModel) -> FloatArray:
        return 1 / (model.between.s_per_byte * self.topology.links * self.topology.between.bytes_per_s)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(self._model(self.job, self.topology), self._measured())

    def _measured(self) -> dict[int, float]:
        """Seconds of a step by GPUs."""
        return {gpus: self.job.step_images * gpus / rate for gpus, rate in self.rates}

    def _model(self, job: Job, topology: Topology) -> StepModel:
        return StepModel(job, topology, algorithm=self.algorithm, assumptions=self.assumptions)

    def inputs(self) -> dict[str, Any]:
        gpus, rate = min(self.rates)
        return {
            "images_per_sec": rate,
            "measured_on": gpus,
            "rates": dict(self.rates),
            "micro_batch": self.job.images,
            "network": self.network,
            "gpu": self.gpu,
        }
