"""How well scaling is predicted: every published efficiency in a table like scaling.csv against `predict` with flags from the same row.

    python -m bench.scaling_prediction path/to/scaling.csv

The flags come from the row's own description of the hardware by the rules below, which know data sheets and no results. A row whose
hardware is not described is listed as not predicted. Prints each row (* where the published value lies outside the 90% interval), the mean
absolute error of efficiency in points, and the share inside; exits 1 if the error is above 3 points or that share outside 80% to 97%.
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import timm

from lbtrain.cluster.step_model import Prediction
from lbtrain.cluster.topology import NETWORKS
from tools.scaling_report.question import Question

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """From the data sheets of a GPU and of the usual node around it: single-precision TFLOP/s, and processor cores of the node."""

    tflops: float
    cores: int


NODES = {
    "K80": Node(2.8, 16),  # one of the two GPUs of a board, base clock; p2.8xlarge: 32 hyper-threads
    "P40": Node(11.8, 40),
    "P100": Node(10.6, 40),  # DGX-1: 2 x 20 cores
    "V100": Node(15.7, 40),
    "A100": Node(19.5, 128),  # DGX A100: 2 x 64 cores
    "H100": Node(67.0, 112),  # DGX H100: 2 x 56 cores
}
# Where no throughput is printed: this share of the data sheet's arithmetic, for three passes of 4.1 G multiply-adds (ResNet-50).
UTILISATION, RESNET50_FLOPS = 0.4, 3 * 2 * 4.1e9
NOT_STATED_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True)
class Compared:
    row: Row
    published: float
    predicted: Prediction

    @property
    def inside(self) -> bool:
        return self.predicted.efficiency_low <= self.published <= self.predicted.efficiency_high

    @property
    def error(self) -> float:
        return 100 * (self.predicted.efficiency - self.published)


def compare(rows: list[Row]) -> tuple[list[Compared], list[tuple[Row, str]]]:
    """Predict every row that states an efficiency of more GPUs than its baseline; second, the rows that could not be, with the reason."""
    compared, left_out = [], []
    for row in rows:
        if not row["efficiency"] or row["efficiency_kind"] == "baseline":
            continue
        try:
            question = question_for(row, rows)
            compared.append(Compared(row, float(row["efficiency"]), question.answer([int(row["gpus"])])[0]))
        except ValueError as reason:
            left_out.append((row, str(reason)))
    return compared, left_out


def question_for(row: Row, rows: Iterable[Row]) -> Question:
    gpu = _gpu(row["gpu_type"])
    node = NODES[gpu]
    text = f"{row['interconnect']}; {row['gpu_type']}; {row['note']}"
    gpus_per_node = int(_found(r"(\d+)[ -]GPUs? (?:each|per|node)", text) or 8)
    measured_on = int(row["baseline_gpus"] or min(gpus_per_node, int(row["gpus"])))
    network, links = _network(row["interconnect"])
    half = "fp16" in row["precision"] or "half precision used for communication" in row["note"]
    return Question(
        model=_model(row["model"]),
        images_per_sec=_baseline_images_per_sec(row, rows, node, measured_on),
        measured_on=measured_on,
        micro_batch=int(row["per_gpu_batch"] or NOT_STATED_MICRO_BATCH),
        gpus_per_node=gpus_per_node,
        network=network,
        links=links,
        gpu=gpu.lower(),
        node_link="pcie3" if "on CPU" in text else None,
        dtype="fp16" if half else "fp32",
        algorithm="parameter-server" if "parameter server" in row["interconnect"] else "auto",
        # ChainerMN exchanges gradients when backward has ended (Akiba et al. 2017b, section 3).
        overlaps="akiba" not in row["source"],
        cpu_cores=None if row["dataset"] == "synthetic" else node.cores,
    )


def _gpu(name: str) -> str:
    for gpu in NODES:
        if gpu in name:
            return gpu
    raise ValueError(f"no data sheet for {name or 'an unnamed accelerator'!r}")


def _model(name: str) -> str:
    """The timm model of that name, spelled any way; a paper that trains "unspecified" networks on ImageNet has ResNet-50."""
    spelled = {re.sub("[^a-z0-9]", "", model): model for model in timm.list_models()}
    wanted = "resnet50" if "unspecified" in name else re.sub("[^a-z0-9]", "", name.lower().removesuffix(" v1.5"))
    if wanted not in spelled:
        raise ValueError(f"timm has no {name}")
    return spelled[wanted]


def _network(interconnect: str) -> tuple[str, int]:
    """Preset and ports a node from words such as "InfiniBand FDR (56 Gbit/s x2 per 8-GPU node)"."""
    links = int(_found(r"\bx ?(\d)\b", interconnect) or _found(r"\b(\d) ?x\b", interconnect) or 1)
    rate = _found(r"(\d+) ?(?:Gbit/s|Gbps|Gb/s|GbE)", interconnect)
    infiniband = _found(r"\b(QDR|FDR|EDR|HDR|NDR)\b", interconnect) or _INFINIBAND.get(rate, "EDR") * ("InfiniBand" in interconnect)
    if infiniband:
        return next(name for name in NETWORKS if infiniband.lower() in name), links
    # Where the words name no speed: 10 Gbit/s in a cloud of 2017, and InfiniBand EDR in a cluster built for training.
    if not rate:
        return ("eth-10", 1) if "EC2" in interconnect else ("ib-edr-100", 1)
    return f"{'roce' if 'RoCE' in interconnect else 'eth'}-{rate}", links


_INFINIBAND = {"40": "QDR", "56": "FDR", "100": "EDR", "200": "HDR", "400": "NDR"}


def _baseline_images_per_sec(row: Row, rows: Iterable[Row], node: Node, measured_on: int) -> float:
    if row["baseline_images_per_sec"]:
        return float(row["baseline_images_per_sec"])
    for other in rows:
        same = all(other[key] == row[key] for key in ("source", "model", "gpu_type"))
        if same and other["images_per_sec"] and int(other["gpus"]) == measured_on:
            return float(other["images_per_sec"])
    return UTILISATION * node.tflops * 1e12 / RESNET50_FLOPS * measured_on


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="published results, one configuration a row")
    table = parser.parse_args().table
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        print(f"{table} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    compared, left_out = compare(rows)
    for each in compared:
        p = each.predicted
        name = f"{each.row['source']}, {each.row['gpus']} x {each.row['gpu_type']}, {each.row['dataset'] or 'ImageNet'}"
        print(f"{name[:60]:60} published {each.published:.3f}  predicted {p.efficiency:.3f} {_interval(p)}{'' if each.inside else ' *'}")
    for row, reason in left_out:
        print(f"not predicted: {row['source']}, {row['gpus']} GPUs: {reason}")
    return _verdict(compared)


def _interval(prediction: Prediction) -> str:
    return f"[{prediction.efficiency_low:.3f}, {prediction.efficiency_high:.3f}]"


def _verdict(compared: list[Compared]) -> int:
    error = statistics.mean(abs(each.error) for each in compared)
    coverage = statistics.mean(each.inside for each in compared)
    width = statistics.median(each.predicted.efficiency_high - each.predicted.efficiency_low for each in compared)
    inside = f"{coverage:.1%} inside the 90% interval (median width {100 * width:.1f} points)"
    print(f"{len(compared)} rows: mean absolute error {error:.2f} points; {inside}")
    return 0 if error <= 3 and 0.80 <= coverage <= 0.97 else 1


if __name__ == "__main__":
    sys.exit(main())
