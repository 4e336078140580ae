"""What joins the GPUs: links with bandwidth and latency from their data sheets, and how ranks are laid out
over nodes.

Bandwidths are what the standard or data sheet states for one direction, before protocol overhead; the share
of it that collectives reach is an assumption of the prediction (`step_model.Assumptions`), not of a preset.
Nothing here is fitted to published training results.

Latencies are per message step as NCCL's own cost model has them (its tuning tables, "Simple" protocol: NVLink
3.4 to 3.6 us, PCIe 5.7 us, network 10 to 20 us with InfiniBand); TCP over Ethernet: 25 us, what a kernel
socket adds one way between two hosts of a rack.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from lbtrain.errors import RecipeError

T = TypeVar("T")

_GBIT = 1e9 / 8
_IB_LATENCY = 14e-6
_TCP_LATENCY = 25e-6


@dataclass(frozen=True, slots=True)
class Link:
    """A way between two GPUs or two nodes: bytes/s in one direction, seconds per message, and where the
    bandwidth is stated.
    """

    bytes_per_s: float
    latency_s: float
    source: str


# Between nodes: the data rate of one port.
NETWORKS: dict[str, Link] = {
    "eth-1": Link(1 * _GBIT, _TCP_LATENCY, "IEEE 802.3ab"),
    "eth-10": Link(10 * _GBIT, _TCP_LATENCY, "IEEE 802.3ae"),
    "eth-25": Link(25 * _GBIT, _TCP_LATENCY, "IEEE 802.3by"),
    "eth-40": Link(40 * _GBIT, _TCP_LATENCY, "IEEE 802.3ba"),
    "eth-50": Link(50 * _GBIT, _TCP_LATENCY, "IEEE 802.3cd; ConnectX-4 at 50GbE"),
    "eth-100": Link(100 * _GBIT, _TCP_LATENCY, "IEEE 802.3bm"),
    "roce-25": Link(25 * _GBIT, _IB_LATENCY, "IEEE 802.3by, RDMA"),
    "roce-50": Link(50 * _GBIT, _IB_LATENCY, "IEEE 802.3cd, RDMA"),
    "roce-100": Link(100 * _GBIT, _IB_LATENCY, "IEEE 802.3bm, RDMA"),
    "roce-200": Link(200 * _GBIT, _IB_LATENCY, "IEEE 802.3bs, RDMA"),
    "roce-400": Link(400 * _GBIT, _IB_LATENCY, "IEEE 802.3bs, RDMA"),
    "ib-qdr-40": Link(32 * _GBIT, _IB_LATENCY, "4 lanes x 10 GBd, 8b/10b"),
    "ib-fdr-56": Link(54.5 * _GBIT, _IB_LATENCY, "4 lanes x 14.0625 GBd, 64b/66b"),
    "ib-edr-100": Link(100 * _GBIT, _IB_LATENCY, "4 lanes x 25.78125 GBd, 64b/66b"),
    "ib-hdr-200": Link(200 * _GBIT, _IB_LATENCY, "ConnectX-6 data sheet"),
    "ib-ndr-400": Link(400 * _GBIT, _IB_LATENCY, "ConnectX-7 data sheet"),
}

# Inside a node: what one GPU sends at most.
NODE_LINKS: dict[str, Link] = {
    "pcie3": Link(15.75e9, 5.7e-6, "PCIe 3.0 x16, 128b/130b"),
    "pcie4": Link(31.5e9, 5.7e-6, "PCIe 4.0 x16, 128b/130b"),
    "pcie5": Link(63.0e9, 5.7e-6, "PCIe 5.0 x16, 128b/130b"),
    "nvlink1": Link(80e9, 3.5e-6, "P100 data sheet: 4 links x 20 GB/s"),
    "nvlink2": Link(150e9, 3.5e-6, "V100 data sheet: 6 links x 25 GB/s"),
    "nvlink3": Link(300e9, 3.5e-6, "A100 data sheet: 12 links x 25 GB/s"),
    "nvlink4": Link(450e9, 3.5e-6, "H100 data sheet: 18 links x 25 GB/s"),
    "nvlink5": Link(900e9, 3.5e-6, "B200 data sheet: 18 links x 50 GB/s"),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU's data sheet says that bears on scaling: its link inside a node, by how much boost exceeds
    the base clock, and TFLOP/s.

    `tflops` are dense rates by type of arithmetic; a type that the GPU has no faster units for than for fp32
    is left out.
    """

    node_link: str
    boost_headroom: float
    tflops: dict[str, float]


# Base and boost clocks in MHz. GPUs of a full node share power and cooling (a K80 board holds two), and clock
# lower than one alone.
GPUS: dict[str, Gpu] = {
    "k80": Gpu("pcie3", 875 / 560 - 1, {"fp32": 2.8}),  # one of the two GPUs of a board, base clock
    "p40": Gpu("pcie3", 1531 / 1303 - 1, {"fp32": 11.8}),
    "p100": Gpu("nvlink1", 1480 / 1328 - 1, {"fp32": 10.6, "fp16": 21.2}),
    "v100": Gpu("nvlink2", 1530 / 1312 - 1, {"fp32": 15.7, "fp16": 125}),
    "a100": Gpu("nvlink3", 1410 / 1275 - 1, {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312}),
    "h100": Gpu("nvlink4", 1980 / 1590 - 1, {"fp32": 67, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}),
}


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes of `gpus_per_node` GPUs, `inside` between the GPUs of a node and `links` ports of `between` on
    each node.
    """

    gpus_per_node: int
    inside: Link
    between: Link
    links: int = 1
    boost_headroom: float = 0.15  # of the GPUs; where the model is not named, about what data sheets state

    def __post_init__(self) -> None:
        if self.gpus_per_node < 1 or self.links < 1:
            raise RecipeError(
                f"a node has at least one GPU and one network link, not {self.gpus_per_node} and {self.links}"
            )

    def layout(self, gpus: int) -> tuple[int, int]:
        """(GPUs used in a node, nodes); whole nodes only, once there is more than one."""
        if gpus <= self.gpus_per_node:
            return gpus, 1
        nodes, rest = divmod(gpus, self.gpus_per_node)
        if rest:
            raise RecipeError(
                f"{gpus} GPUs do not fill nodes of {self.gpus_per_node}: ask for {gpus - rest} or "
                f"{gpus - rest + self.gpus_per_node}"
            )
        return self.gpus_per_node, nodes

    def with_bandwidth(self, factor: float) -> "Topology":
        """The same cluster with `factor` times the bandwidth between nodes."""
        return replace(self, between=replace(self.between, bytes_per_s=self.between.bytes_per_s * factor))


def preset(name: str, presets: dict[str, T]) -> T:
    """The link or GPU called `name`, or an error that lists the names there are."""
    if name not in presets:
        raise RecipeError(f"{name!r} is not a preset; there are {', '.join(presets)}")
    return presets[name]
