"""Changes to a predicted cluster or job: `bandwidth=2x,micro_batch=64,accumulation=2,dtype=bf16,zero=1`."""

import argparse
import dataclasses
from dataclasses import dataclass

from lbtrain.cluster.step_model import Job
from lbtrain.cluster.topology import Topology
from tools.scaling_report.layers import BYTES


@dataclass(frozen=True)
class WhatIf:
    """changes, comma-separated: bandwidth=2x (between nodes), micro_batch=64 and accumulation=2 (images a GPU takes and passes a step;
    computing time follows the images), dtype=bf16 (of exchanged gradients; computing stays as measured), zero=1"""

    bandwidth: float = 1.0
    micro_batch: int | None = None
    accumulation: int = 1
    dtype: str | None = None
    zero: int | None = None

    def topology(self, topology: Topology) -> Topology:
        return topology.with_bandwidth(self.bandwidth)

    def job(self, job: Job, *, dtype: str) -> Job:
        buckets = job.buckets.accumulated(self.accumulation).scaled(BYTES[self.dtype or dtype] / BYTES[dtype])
        stage = job.zero_stage if self.zero is None else self.zero
        return dataclasses.replace(job, buckets=buckets, images=(self.micro_batch or job.images) * self.accumulation, zero_stage=stage)

    def asked(self) -> dict[str, object]:
        changed = {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(WhatIf(), name)}
        return {"what_if": changed} if changed else {}


def parse_what_if(text: str) -> WhatIf:
    """The changes in `text`; argparse shows the reason if one is not understood."""
    changes: dict[str, object] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        try:
            changes[key] = _READ[key](value)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(
                f"{word!r} is not understood; there are bandwidth=2x, micro_batch=64, accumulation=2, dtype={'|'.join(BYTES)}, zero=0|1"
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
    "zero": lambda text: {"0": 0, "1": 1}[text],
}
