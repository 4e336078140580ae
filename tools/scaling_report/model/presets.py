"""Links and GPUs by name, as their standards and data sheets state them. Names are read in any case and with
any punctuation.

Bandwidths are of one direction and before protocol overhead; the share of it that collectives reach is an
assumption of the prediction (`Assumptions`), not of a preset. Nothing here is fitted to training results.

Latencies are per message step as NCCL's own cost model has them (its tuning tables, "Simple" protocol: NVLink
3.4 to 3.6 us, PCIe 5.7 us, network 10 to 20 us with InfiniBand); TCP over Ethernet: 25 us, what a kernel
socket adds one way between two hosts of a rack; EFA: 20 us (AWS gives 15.5 us for a small MPI message).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lbtrain.errors import RecipeError

T = TypeVar("T")
_GBIT = 1e9 / 8
_RDMA, _TCP, _EFA = 14e-6, 25e-6, 20e-6


@dataclass(frozen=True, slots=True)
class Link:
    """A way between two GPUs or two nodes: bytes/s in one direction, seconds per message, and where the
    bandwidth is stated. `tcp`: through the kernel's sockets.
    """

    bytes_per_s: float
    latency_s: float
    source: str
    tcp: bool = False


def _ethernet(gbit: float, source: str) -> dict[str, Link]:
    return {f"eth-{gbit}": Link(gbit * _GBIT, _TCP, source, tcp=True)} | (
        {f"roce-{gbit}": Link(gbit * _GBIT, _RDMA, f"{source}, RDMA")} if gbit >= 10 else {}
    )


# Between nodes: the data rate of one port.
NETWORKS: dict[str, Link] = (
    _ethernet(1, "IEEE 802.3ab")
    | _ethernet(2.5, "IEEE 802.3bz")
    | _ethernet(5, "IEEE 802.3bz")
    | _ethernet(10, "IEEE 802.3ae")
    | _ethernet(25, "IEEE 802.3by")
    | _ethernet(40, "IEEE 802.3ba")
    | _ethernet(50, "IEEE 802.3cd; ConnectX-4 at 50GbE")
    | _ethernet(100, "IEEE 802.3bm")
    | _ethernet(200, "IEEE 802.3bs")
    | _ethernet(400, "IEEE 802.3bs")
    | _ethernet(800, "IEEE 802.3df")
    | {
        "ib-qdr-40": Link(32 * _GBIT, _RDMA, "4 lanes x 10 GBd, 8b/10b"),
        "ib-fdr-56": Link(54.5 * _GBIT, _RDMA, "4 lanes x 14.0625 GBd, 64b/66b"),
        "ib-edr-100": Link(100 * _GBIT, _RDMA, "4 lanes x 25.78125 GBd, 64b/66b"),
        "ib-hdr-100": Link(100 * _GBIT, _RDMA, "ConnectX-6 data sheet: 2 lanes of HDR"),
        "ib-hdr-200": Link(200 * _GBIT, _RDMA, "ConnectX-6 data sheet"),
        "ib-ndr-200": Link(200 * _GBIT, _RDMA, "ConnectX-7 data sheet: 2 lanes of NDR"),
        "ib-ndr-400": Link(400 * _GBIT, _RDMA, "ConnectX-7 data sheet"),
        "ib-xdr-800": Link(800 * _GBIT, _RDMA, "ConnectX-8 data sheet"),
        "omnipath-100": Link(
            100 * _GBIT, _RDMA, "Intel Omni-Path Host Fabric Interface 100 series data sheet"
        ),
        "aries": Link(10e9, _RDMA, "Cray XC Series Network, Rev 1.2, 2012: 10 GB/s injection a node"),
        "slingshot-100": Link(100 * _GBIT, _RDMA, "HPE Slingshot 10: ConnectX-5 at 100GbE"),
        "slingshot-200": Link(200 * _GBIT, _RDMA, "HPE Slingshot 11 data sheet: 200 Gbit/s a NIC"),
        "slingshot-400": Link(400 * _GBIT, _RDMA, "HPE Slingshot 400 data sheet"),
        "efa-100": Link(100 * _GBIT, _EFA, "AWS EC2: p3dn 1, p4d 4 and p5 32 interfaces of 100 Gbit/s"),
        "efa-200": Link(200 * _GBIT, _EFA, "AWS EC2: p5en, 16 interfaces of 200 Gbit/s"),
        "efa-400": Link(400 * _GBIT, _EFA, "AWS EC2: p6-b200, 8 interfaces of 400 Gbit/s"),
    }
)

# Inside a node: what one GPU sends at most.
NODE_LINKS: dict[str, Link] = {
    "pcie3": Link(15.75e9, 5.7e-6, "PCIe 3.0 x16, 128b/130b"),
    "pcie4": Link(31.5e9, 5.7e-6, "PCIe 4.0 x16, 128b/130b"),
    "pcie5": Link(63.0e9, 5.7e-6, "PCIe 5.0 x16, 128b/130b"),
    "nvlink1": Link(80e9, 3.5e-6, "P100 data sheet: 4 links x 20 GB/s"),
    "nvlink2": Link(150e9, 3.5e-6, "V100 data sheet: 6 links x 25 GB/s"),
    "nvlink3": Link(300e9, 3.5e-6, "A100 data sheet: 12 links x 25 GB/s"),
    "nvlink4": Link(450e9, 3.5e-6, "H100 data sheet: 18 links x 25 GB/s"),
    "nvlink-400": Link(200e9, 3.5e-6, "A800 and H800 data sheets: 400 GB/s both ways"),
    "nvlink5": Link(900e9, 3.5e-6, "B200 data sheet: 18 links x 50 GB/s"),
    "infinity-fabric-1": Link(138e9, 3.5e-6, "MI100 data sheet: 3 links, 276 GB/s both ways"),
    "infinity-fabric-2": Link(200e9, 3.5e-6, "MI250X data sheet: 8 links x 50 GB/s for two dies"),
    "infinity-fabric-3": Link(448e9, 3.5e-6, "MI300X data sheet: 7 links x 64 GB/s"),
    "infinity-fabric-4": Link(537.6e9, 3.5e-6, "MI350X data sheet: 7 links x 76.8 GB/s"),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU's data sheet says that bears on scaling: its link inside a node, base and boost clock in MHz
    (None: not stated), dense TFLOP/s by type, and board power in watts.

    A type that the GPU has no faster units for than for fp32 is left out.
    """

    node_link: str
    clocks: tuple[float, float] | None
    tflops: dict[str, float]
    watts: float
    source: str

    @property
    def boost_headroom(self) -> float:
        """By how much the boost exceeds the base clock. GPUs of a full node share power and cooling (a K80
        board holds two), and clock lower than one alone.
        """
        return self.clocks[1] / self.clocks[0] - 1 if self.clocks else USUAL_HEADROOM


USUAL_HEADROOM = 0.15  # about what data sheets state
_SHEET = "NVIDIA data sheet"
_AMPERE, _ADA = "NVIDIA Ampere GA102 white paper", "NVIDIA Ada white paper"
_BLACKWELL_RTX = "NVIDIA RTX Blackwell white paper"


def _rates(
    fp32: float, tf32: float | None = None, half: float | None = None, *, bf16: bool = True
) -> dict[str, float]:
    kinds = {"fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half if bf16 else None}
    return {kind: rate for kind, rate in kinds.items() if rate}


GPUS: dict[str, Gpu] = {
    "k80": Gpu("pcie3", (560, 875), _rates(2.8), 150, f"{_SHEET}: one of a board's two GPUs"),
    "m40": Gpu("pcie3", (948, 1114), _rates(6.8), 250, _SHEET),
    "p40": Gpu("pcie3", (1303, 1531), _rates(11.8), 250, _SHEET),
    "p100": Gpu("nvlink1", (1328, 1480), _rates(10.6, half=21.2, bf16=False), 300, f"{_SHEET}: SXM2"),
    "p100-pcie": Gpu("pcie3", (1126, 1303), _rates(9.3, half=18.7, bf16=False), 250, _SHEET),
    "v100": Gpu("nvlink2", (1312, 1530), _rates(15.7, half=125, bf16=False), 300, f"{_SHEET}: SXM2"),
    "v100-pcie": Gpu("pcie3", (1245, 1380), _rates(14, half=112, bf16=False), 250, _SHEET),
    "t4": Gpu("pcie3", (585, 1590), _rates(8.1, half=65, bf16=False), 70, _SHEET),
    "a10": Gpu("pcie4", (885, 1695), _rates(31.2, 62.5, 125), 150, _SHEET),
    "a10g": Gpu("pcie4", None, _rates(35, 35, 70), 300, "NVIDIA and AWS: A10G data sheet, February 2022"),
    "a30": Gpu("pcie4", (930, 1440), _rates(10.3, 82, 165), 165, _SHEET),
    "a40": Gpu("pcie4", (1305, 1740), _rates(37.4, 74.8, 149.7), 300, _SHEET),
    "a100": Gpu("nvlink3", (1275, 1410), _rates(19.5, 156, 312), 400, f"{_SHEET}: SXM4"),
    "a100-pcie": Gpu("pcie4", (1065, 1410), _rates(19.5, 156, 312), 300, f"{_SHEET}: 80 GB"),
    "a800": Gpu("nvlink-400", (1275, 1410), _rates(19.5, 156, 312), 400, f"{_SHEET}: SXM4, as the A100"),
    "l4": Gpu("pcie4", (795, 2040), _rates(30.3, 60, 121), 72, _SHEET),
    "l40": Gpu("pcie4", (735, 2490), _rates(90.5, 90.5, 181), 300, _SHEET),
    "l40s": Gpu("pcie4", (1110, 2520), _rates(91.6, 183, 366), 350, _SHEET),
    "h100": Gpu("nvlink4", (1590, 1980), _rates(67, 494.7, 989.4), 700, f"{_SHEET}: SXM5"),
    "h100-pcie": Gpu("pcie5", (1095, 1755), _rates(51, 378, 756), 350, _SHEET),
    "h100-nvl": Gpu(
        "pcie5", None, _rates(60, 417.5, 835.5), 400, f"{_SHEET}: one card, at its largest power"
    ),
    "h200": Gpu("nvlink4", (1590, 1980), _rates(67, 494.7, 989.4), 700, f"{_SHEET}: SXM"),
    "h800": Gpu("nvlink-400", (1590, 1980), _rates(67, 494.7, 989.4), 700, f"{_SHEET}: SXM5, as the H100"),
    "h20": Gpu("nvlink4", None, _rates(44, 74, 148), 400, "NVIDIA HGX H20 specification, as reported"),
    "gh200": Gpu("nvlink4", (1590, 1980), _rates(67, 494.7, 989.4), 700, f"{_SHEET}: its Hopper GPU"),
    "b100": Gpu("nvlink5", None, _rates(60, 875, 1750), 700, f"{_SHEET}: HGX B100"),
    "b200": Gpu("nvlink5", None, _rates(75, 1125, 2250), 1000, f"{_SHEET}: HGX B200"),
    "b300": Gpu("nvlink5", None, _rates(75, 1125, 2250), 1400, f"{_SHEET}: HGX B300, at its largest power"),
    "gb200": Gpu("nvlink5", None, _rates(80, 1250, 2500), 1200, f"{_SHEET}: one GPU of GB200 NVL72"),
    "gb300": Gpu("nvlink5", None, _rates(80, 1250, 2500), 1400, f"{_SHEET}: one GPU of GB300 NVL72"),
    "mi50": Gpu("pcie4", None, _rates(13.3, half=26.5, bf16=False), 300, "AMD data sheet"),
    "mi100": Gpu("infinity-fabric-1", (1000, 1502), _rates(23.1, half=184.6), 300, "AMD data sheet"),
    "mi210": Gpu("infinity-fabric-1", (1000, 1700), _rates(22.6, half=181), 300, "AMD data sheet"),
    "mi250x": Gpu(
        "infinity-fabric-2", None, _rates(23.95, half=191.5), 280, "AMD data sheet: one of its two dies"
    ),
    "mi250": Gpu(
        "infinity-fabric-2", None, _rates(22.65, half=181), 280, "AMD data sheet: one of its two dies"
    ),
    "mi300a": Gpu("infinity-fabric-3", None, _rates(122.6, 490.3, 980.6), 550, "AMD data sheet"),
    "mi300x": Gpu("infinity-fabric-3", None, _rates(163.4, 653.7, 1307.4), 750, "AMD data sheet"),
    "mi325x": Gpu("infinity-fabric-3", None, _rates(163.4, 653.7, 1307.4), 1000, "AMD data sheet"),
    "mi350x": Gpu("infinity-fabric-4", None, _rates(144.2, half=2306.9), 1000, "AMD data sheet"),
    "mi355x": Gpu("infinity-fabric-4", None, _rates(157.3, half=2516.6), 1400, "AMD data sheet"),
    "gtx1080ti": Gpu("pcie3", (1480, 1582), _rates(11.3), 250, "NVIDIA GeForce specification"),
    "titan-v": Gpu("pcie3", (1200, 1455), _rates(14.9, half=110, bf16=False), 250, _SHEET),
    "titan-rtx": Gpu(
        "pcie3", (1350, 1770), _rates(16.3, half=130.5, bf16=False), 280, "NVIDIA Turing white paper"
    ),
    "rtx2080ti": Gpu(
        "pcie3", (1350, 1545), _rates(13.4, half=53.8, bf16=False), 250, "NVIDIA Turing white paper"
    ),
    "quadro-rtx6000": Gpu("pcie3", None, _rates(16.3, half=130.5, bf16=False), 295, _SHEET),
    "quadro-rtx8000": Gpu(
        "pcie3", (1395, 1770), _rates(16.3, half=130.5, bf16=False), 295, "NVIDIA Turing white paper"
    ),
    "rtx3080": Gpu("pcie4", (1440, 1710), _rates(29.8, 29.8, 59.5), 320, _AMPERE),
    "rtx3090": Gpu("pcie4", (1395, 1695), _rates(35.6, 35.6, 71), 350, _AMPERE),
    "rtx3090ti": Gpu("pcie4", (1560, 1860), _rates(40, 40, 80), 450, "NVIDIA GeForce specification"),
    "rtx-a4000": Gpu("pcie4", None, _rates(19.2, 38.3, 76.7), 140, _SHEET),
    "rtx-a5000": Gpu("pcie4", (1170, 1695), _rates(27.8, 55.6, 111.1), 230, _SHEET),
    "rtx-a6000": Gpu("pcie4", (1410, 1800), _rates(38.7, 77.4, 154.8), 300, _AMPERE),
    "rtx4080": Gpu("pcie4", (2205, 2505), _rates(48.7, 48.7, 97.5), 320, _ADA),
    "rtx4090": Gpu("pcie4", (2235, 2520), _rates(82.6, 82.6, 165.2), 450, _ADA),
    "rtx6000-ada": Gpu("pcie4", (915, 2505), _rates(91.1, 182.1, 364.2), 300, _ADA),
    "rtx5090": Gpu("pcie5", (2017, 2407), _rates(104.8, 104.8, 209.5), 575, _BLACKWELL_RTX),
    "rtx-pro-6000": Gpu("pcie5", None, _rates(126, 251.9, 503.8), 600, _BLACKWELL_RTX),
}


def named(text: str, presets: Mapping[str, Any]) -> str:
    """The name of the preset that `text` spells (see `find`). Raises RecipeError if none is."""
    if (found := find(text, presets)) is not None:
        return found
    spelled, plain = _spellings(presets), _plain(_model(text))
    close = difflib.get_close_matches(plain, spelled, n=6) or [each for each in spelled if plain in each]
    close = list(dict.fromkeys(spelled[each] for each in close if plain))[:3]
    nearest = f"did you mean {', '.join(close)}? " if close else ""
    raise RecipeError(f"{text!r} is not a preset: {nearest}there are {', '.join(presets)}")


def find(text: str, presets: Mapping[str, Any]) -> str | None:
    """The preset that `text` spells in any case and punctuation, or as a driver calls the device: `Tesla
    V100-SXM2-32GB`, `NVIDIA GeForce RTX 4090`. None if there is none.
    """
    spelled = _spellings(presets)
    return next((spelled[each] for each in map(_plain, (text, _model(text))) if each in spelled), None)


def _spellings(presets: Mapping[str, Any]) -> dict[str, str]:
    """The presets by what else they are called and by their names, plainly."""
    others = {also: name for name in presets for also in _also(name)}
    return others | {_plain(name): name for name in presets}


def _model(text: str) -> str:
    return _BESIDE_THE_MODEL.sub("", text.lower())


def _also(name: str) -> list[str]:
    """What else a link is called: `800GbE`, `10 Gigabit Ethernet`, `InfiniBand HDR`, `EDR`, `PCIe Gen4 x16`;
    the widest port where no rate is named.
    """
    kind, *rest = name.split("-")
    if kind == "eth":
        words = ("gbe", "gige", "gigabitethernet")
        return [*(f"{rest[0]}{word}" for word in words), f"ethernet{rest[0]}"]
    if kind == "ib":
        speed, rate = rest
        return [speed, f"ib{speed}", f"infiniband{speed}", f"infiniband{speed}{rate}", f"{speed}{rate}"]
    if kind.startswith("pcie"):
        generation = f"gen{kind.removeprefix('pcie')}"
        return [f"{kind}x16", f"pcie{generation}", f"pcie{generation}x16"]
    return _ALIASES.get(name, [])


_ALIASES = {
    "slingshot-100": ["slingshot10"],
    "slingshot-200": ["slingshot11"],
    "mi250x": ["mi250xmi250"],  # as the driver calls either
}


def preset(name: str, presets: Mapping[str, T]) -> T:
    """The link or GPU called `name`. Raises RecipeError with the names there are."""
    return presets[named(name, presets)]


_BESIDE_THE_MODEL = re.compile(
    r"(?<=\d)\s*(?:gbit/s|gbps|gb/s)|\b(?:nvidia|geforce|tesla|amd|instinct|graphics|generation|sxm\d?|oam"
    r"|hbm\d?e?|\d+ ?gb(?!/)|blackwell (?:server|workstation) edition)\b"
)
"""A unit of rates, and maker, series, memory and socket in a device's name. What stands for another chip or
power is not here: PCIe, NVL, Laptop, Max-Q.
"""


def _plain(text: str) -> str:
    """Letters and figures, and a dot between figures: 2.5 is not 25, and 4.0 is 4."""
    return re.sub(r"[^a-z0-9.]|(?<!\d)\.|\.(?!\d)|\.0+(?!\d)", "", text.lower())
