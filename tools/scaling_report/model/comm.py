"""What an exchange of gradients costs, and how much of it backward hides.

Each all-reduce is latency + bytes / bandwidth, with the coefficients of its algorithm (n ranks, S bytes,
latency a, seconds per byte b):

    ring               2 (n-1) a  +  2 (n-1)/n S b   Patarasuk & Yuan 2009, section 3
    halving-doubling   2 log2(n) a + 2 (n-1)/n S b   Thakur et al. 2005, section 4.4 (Rabenseifner); where n
                                                     is no power of two, S bytes each way once more
    tree               2 log2(n) a + 2 S b           Sanders et al. 2009 (two trees, pipelined)
    parameter-server   2 a + 2 (n-1)/n S b           sharded over all n nodes; weights are fetched when
                                                     every node has pushed
    auto               the cheapest                  as NCCL chooses by message size

Costs may be arrays (one entry per sample of an uncertain link), and then so are the results. Seconds, bytes
and bytes/s throughout.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from .topology import Topology

FloatArray = npt.NDArray[np.float64]
Algorithm = Literal["auto", "ring", "tree", "halving-doubling", "parameter-server"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


@dataclass(frozen=True, slots=True)
class Cost:
    """A link as collectives find it: seconds a message and seconds a byte (arrays over samples)."""

    latency_s: FloatArray
    s_per_byte: FloatArray


def all_reduce_s(num_bytes: float, ranks: int, cost: Cost, *, algorithm: Algorithm = "auto") -> FloatArray:
    """Seconds to sum `num_bytes` over `ranks` that are joined pairwise by equal links."""
    if ranks == 1:
        return np.zeros_like(cost.latency_s)
    if algorithm == "auto":
        choices = [
            all_reduce_s(num_bytes, ranks, cost, algorithm=each)
            for each in ("ring", "tree", "halving-doubling")
        ]
        return np.minimum.reduce(choices)
    messages, share = coefficients(ranks, algorithm=algorithm)
    return messages * cost.latency_s + share * num_bytes * cost.s_per_byte


def coefficients(ranks: int, *, algorithm: Algorithm) -> tuple[float, float]:
    """(messages, multiples of the bytes) that one all-reduce costs; of one algorithm, not "auto"."""
    return _COEFFICIENTS[algorithm](ranks)


def _halving_doubling(n: int) -> tuple[float, float]:
    power = 2 ** int(math.log2(n))
    folding = 0.0 if power == n else 2.0
    return 2.0 * math.log2(power) + folding, 2.0 * (power - 1) / power + folding


_COEFFICIENTS: dict[Algorithm, Callable[[int], tuple[float, float]]] = {
    "ring": lambda n: (2.0 * (n - 1), 2.0 * (n - 1) / n),
    "tree": lambda n: (2.0 * math.ceil(math.log2(n)), 2.0),
    "halving-doubling": _halving_doubling,
    "parameter-server": lambda n: (2.0, 2.0 * (n - 1) / n),
}


def exchange_s(
    num_bytes: float, gpus: int, topology: Topology, *, inside: Cost, between: Cost, algorithm: Algorithm
) -> tuple[FloatArray, FloatArray]:
    """Seconds (inside nodes, between nodes) of a hierarchical sum over all GPUs (Goyal et al. 2017, section
    4).

    Reduce-scatter in each node, all-reduce by `algorithm` between nodes, all-gather in each node. Every byte
    leaves a node once however many GPUs it has: they share the node's network ports. "auto" is what NCCL
    does: a tree over nodes, or one ring through all GPUs, of which 2 (n-1)/n S bytes pass every node's ports.
    """
    in_node, nodes = topology.layout(gpus)
    if algorithm == "auto" and nodes > 1:
        _, share = coefficients(gpus, algorithm="ring")
        messages, _ = coefficients(nodes, algorithm="ring")
        ring = messages * between.latency_s + share * num_bytes * between.s_per_byte
        tree = all_reduce_s(num_bytes, nodes, between, algorithm="tree")
        return all_reduce_s(num_bytes, in_node, inside), np.minimum(ring, tree)
    return all_reduce_s(num_bytes, in_node, inside), all_reduce_s(
        num_bytes, nodes, between, algorithm=algorithm
    )


@dataclass(frozen=True, slots=True)
class Buckets:
    """Gradient buckets in the order backward fills them: bytes, and when each is full as a share of the
    step's computing time.
    """

    num_bytes: tuple[float, ...]
    ready: tuple[float, ...]

    @property
    def total_bytes(self) -> float:
        return sum(self.num_bytes)

    def accumulated(self, accumulation: int) -> "Buckets":
        """The same buckets when only the last of `accumulation` micro-steps exchanges them."""
        return Buckets(self.num_bytes, tuple(1 - (1 - ready) / accumulation for ready in self.ready))

    def scaled(self, factor: float) -> "Buckets":
        """The same buckets with `factor` times the bytes (a half for bf16 after fp32)."""
        return Buckets(tuple(factor * size for size in self.num_bytes), self.ready)


# Backward takes twice forward's time: one product for the input's gradient, one for the weights'.
FORWARD_SHARE = 1 / 3
# torch DistributedDataParallel: a small first bucket, so that the exchange starts early, then 25 MiB each.
_FIRST_BUCKET, _BUCKET = 1024 * 1024, 25 * 1024 * 1024


def fill_buckets(layers: Sequence[tuple[float, float]], *, forward_share: float = FORWARD_SHARE) -> Buckets:
    """Buckets of a model given (gradient bytes, computing time in any unit) per layer in forward order."""
    total = sum(time for _, time in layers) or 1.0
    sizes: list[float] = []
    ready: list[float] = []
    filled = done = 0.0
    for num_bytes, time in reversed(layers):
        done += time
        filled += num_bytes
        if filled >= (_BUCKET if sizes else _FIRST_BUCKET):
            sizes.append(filled)
            ready.append(forward_share + (1 - forward_share) * done / total)
            filled = 0.0
    if filled:
        sizes.append(filled)
        ready.append(1.0)
    return Buckets(tuple(sizes), tuple(ready))


def exposed_s(compute_s: FloatArray, ready: Sequence[float], costs: Sequence[FloatArray]) -> FloatArray:
    """Seconds that remain after backward ends when bucket i, costing `costs[i]`, starts once full and its
    forerunner is through.
    """
    end = np.zeros_like(compute_s)
    for share, cost in zip(ready, costs, strict=True):
        end = np.maximum(end, share * compute_s) + cost
    return np.maximum(end - compute_s, 0.0)
