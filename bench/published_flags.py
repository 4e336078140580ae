"""The flags of `predict` for a published row, by rules that know data sheets and no results."""

import re
from collections.abc import Iterable, Sequence

from tools.scaling_report.model.baseline import WhatIf
from tools.scaling_report.model.presets import GPUS, find
from tools.scaling_report.model.question import Question
from tools.scaling_report.model.step import RESNET50_WORK

Row = dict[str, str]
# Processor cores of the usual node around a GPU, from data sheets.
CORES = {
    "k80": 16,  # p2.8xlarge: 32 hyper-threads
    "p40": 40,
    "p100": 40,  # DGX-1: 2 x 20 cores
    "v100": 40,
    "a100": 128,  # DGX A100: 2 x 64 cores
    "h100": 112,  # DGX H100: 2 x 56 cores
}
# Where no throughput is printed: this share of the data sheet's arithmetic, for three passes of ResNet-50.
UTILISATION, RESNET50_FLOPS = 0.4, 3 * 2 * RESNET50_WORK
NOT_STATED_MICRO_BATCH = 64


def question_for(row: Row, rows: Sequence[Row]) -> tuple[Question, WhatIf]:
    """The flags that a row's own words give, and the change from the batch that its baseline was
    measured at.
    """
    gpu, text = _gpu(row["gpu_type"]), f"{row['interconnect']}; {row['gpu_type']}; {row['note']}"
    gpus_per_node = int(_found(r"(\d+)[ -]GPUs?(?: (?:each|per|node|a node)|/node)", text) or 8)
    measured_on = int(row["baseline_gpus"] or min(gpus_per_node, int(row["gpus"])))
    network, links = _network(row["interconnect"])
    images = int(row["per_gpu_batch"] or NOT_STATED_MICRO_BATCH)
    baseline = _baseline(row, rows)
    at = int((baseline and baseline["per_gpu_batch"]) or images)
    return Question(
        model="resnet50" if "unspecified" in row["model"] else row["model"],
        images_per_sec=_baseline_images_per_sec(row, rows, gpu, measured_on),
        measured_on=measured_on,
        micro_batch=at,
        gpus_per_node=gpus_per_node,
        network=network,
        links=links,
        gpu=gpu,
        node_link="pcie3" if "on CPU" in text else None,
        dtype=_dtype(row["precision"]),
        # MXNet trains in fp16 and exchanges that; autocast keeps gradients in fp32.
        gradient_bytes=2
        if re.search("float16 training|half precision used for comm", text + row["precision"])
        else 4,
        algorithm="parameter-server" if "parameter server" in row["interconnect"] else "auto",
        # ChainerMN exchanges gradients when backward has ended (Akiba et al. 2017b, section 3).
        overlaps="akiba" not in row["source"],
        cpu_cores=None if row["dataset"] == "synthetic" else CORES.get(gpu.split("-")[0]),
    ), WhatIf(micro_batch=images if images != at else None)


def _gpu(name: str) -> str:
    """The preset that the words name; "A100-SXM4-80GB (DGX A100)" holds more words than one."""
    words = name.lower().replace(" ", "").replace("-", "")
    held = [each for each in GPUS if each.replace("-", "") in words]
    if found := find(name, GPUS) or max(held, key=len, default=None):
        return f"{found}-pcie" if "PCI" in name.upper() and f"{found}-pcie" in GPUS else found
    raise ValueError(f"no data sheet for {name or 'an unnamed accelerator'!r}")


def _dtype(precision: str) -> str:
    half = "float16" in precision or "fp16" in precision
    return "fp16" if half else "tf32" if "tf32" in precision else "fp32"


def _baseline(row: Row, rows: Sequence[Row]) -> Row | None:
    same = ("source", "model", "gpu_type", "precision", "baseline_images_per_sec")
    found = [
        each
        for each in rows
        if each["efficiency_kind"] == "baseline"
        and each["gpus"] == row["baseline_gpus"]
        and all(each[key] == row[key] for key in same)
    ]
    return found[0] if found and row["baseline_images_per_sec"] else None


def _network(interconnect: str) -> tuple[str, int]:
    """Preset and ports a node from words such as "InfiniBand FDR (56 Gbit/s x2 per 8-GPU node)"."""
    interconnect = re.sub(r"([QFEHNX]DR)(\d+)", r"\1 (\2 Gbit/s)", interconnect)
    several = r"\bx ?(\d{1,2})\b(?! ?G)", r"\b(\d{1,2}) ?x\b", r"\b(\d{1,2})x\d"
    links = int(next(filter(None, (_found(each, interconnect) for each in several)), 1))
    rate = _found(r"(\d+) ?(?:Gbit/s|Gbps|Gb/s|GbE)", interconnect)
    infiniband = _found(r"\b(QDR|FDR|EDR|HDR|NDR|XDR)\b", interconnect) or _INFINIBAND.get(rate, "EDR") * (
        "InfiniBand" in interconnect
    )
    if infiniband:
        usual = next(each for each, name in _INFINIBAND.items() if name == infiniband)
        return f"ib-{infiniband}-{rate or usual}", links
    # Where the words name no speed: 10 Gbit/s in a cloud of 2017, and InfiniBand EDR in a cluster built for
    # training.
    if not rate:
        return ("eth-10", 1) if "EC2" in interconnect else ("ib-edr-100", 1)
    kind = next((kind for word, kind in _KINDS.items() if word in interconnect), "eth")
    return f"{kind}-{rate}", links


_KINDS = {"RoCE": "roce", "EFA": "efa", "Slingshot": "slingshot", "Omni-Path": "omnipath", "OPA": "omnipath"}
_INFINIBAND = {"40": "QDR", "56": "FDR", "100": "EDR", "200": "HDR", "400": "NDR", "800": "XDR"}


def _baseline_images_per_sec(row: Row, rows: Iterable[Row], gpu: str, measured_on: int) -> float:
    if row["baseline_images_per_sec"]:
        return float(row["baseline_images_per_sec"])
    for other in rows:
        same = all(other[key] == row[key] for key in ("source", "model", "gpu_type"))
        if same and other["images_per_sec"] and int(other["gpus"]) == measured_on:
            return float(other["images_per_sec"])
    return UTILISATION * GPUS[gpu].tflops["fp32"] * 1e12 / RESNET50_FLOPS * measured_on


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
