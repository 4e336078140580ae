"""How well scaling is predicted: every published efficiency in a table like scaling.csv against `predict`
with flags from the same row.

    python -m bench.scaling_prediction path/to/scaling.csv

The flags come from the row's own description of the hardware by the rules below, which know data sheets and
no results. A row whose hardware is not described is listed as not predicted. Some choices were made after the
first comparison had been seen (docs/scaling.md), so each row is predicted a second time with choices made
anew from the rows of all other publications: `blind`.

Writes results/scaling_prediction.csv and the tables of docs/scaling.md; exits 1 if the mean absolute error is
above 3 points or the share of published values inside the 90% interval outside 80% to 97%.
"""

import argparse
import csv
import dataclasses
import functools
import itertools
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from bench import rows as result_rows
from tools.kit.publish import with_block
from tools.scaling_report.model.comm import Algorithm
from tools.scaling_report.model.step import Assumptions, Prediction, Spread
from tools.scaling_report.model.topology import GPUS, NETWORKS
from tools.scaling_report.question import Question

Row = dict[str, str]


# Processor cores of the usual node around a GPU, from data sheets.
CORES = {
    "K80": 16,  # p2.8xlarge: 32 hyper-threads
    "P40": 40,
    "P100": 40,  # DGX-1: 2 x 20 cores
    "V100": 40,
    "A100": 128,  # DGX A100: 2 x 64 cores
    "H100": 112,  # DGX H100: 2 x 56 cores
}
# Where no throughput is printed: this share of the data sheet's arithmetic, for three passes of 4.1 G
# multiply-adds (ResNet-50).
UTILISATION, RESNET50_FLOPS = 0.4, 3 * 2 * 4.1e9
NOT_STATED_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen, or judged, after the first comparison: how much of the boost's headroom a full node
    loses (times the range in `Assumptions`), the all-reduce between nodes, and whether a paper's word that
    nothing overlaps is heeded.
    """

    boost_lost: float = 1.0
    algorithm: Algorithm = "auto"
    heed_no_overlap: bool = True

    @property
    def assumptions(self) -> Assumptions:
        usual = Assumptions()
        spread = usual.boost_lost
        return dataclasses.replace(
            usual,
            boost_lost=Spread(
                *(self.boost_lost * value for value in (spread.median, spread.low, spread.high))
            ),
        )


ALGORITHMS: tuple[Algorithm, ...] = ("ring", "auto")
ALL_CHOICES = [
    Choices(boost, algorithm, heed)
    for boost, algorithm, heed in itertools.product((0.01, 0.5, 1.0, 2.0), ALGORITHMS, (True, False))
]


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


def compare(rows: list[Row], choices: Choices | None = None) -> tuple[list[Compared], list[tuple[Row, str]]]:
    """Predict every row that states an efficiency of more GPUs than its baseline; second, the rows that could
    not be, with the reason.
    """
    choices = choices or Choices()
    compared, left_out = [], []
    for row in rows:
        if not row["efficiency"] or row["efficiency_kind"] == "baseline":
            continue
        try:
            question = question_for(row, rows, choices)
            answer = question.answer([int(row["gpus"])], assumptions=choices.assumptions)[0]
            compared.append(Compared(row, float(row["efficiency"]), answer))
        except ValueError as reason:
            left_out.append((row, str(reason)))
    return compared, left_out


def blind(rows: list[Row]) -> list[Compared]:
    """Each row predicted with those of ALL_CHOICES that are best for the rows of all other publications."""
    by_choices = [compare(rows, choices)[0] for choices in ALL_CHOICES]
    found = []
    for number, each in enumerate(by_choices[0]):
        source = each.row["source"]
        best = min(
            by_choices,
            key=lambda compared: statistics.fmean(
                abs(e.error) for e in compared if e.row["source"] != source
            ),
        )
        found.append(best[number])
    return found


def question_for(row: Row, rows: Iterable[Row], choices: Choices) -> Question:
    gpu = _gpu(row["gpu_type"])
    text = f"{row['interconnect']}; {row['gpu_type']}; {row['note']}"
    gpus_per_node = int(_found(r"(\d+)[ -]GPUs? (?:each|per|node)", text) or 8)
    measured_on = int(row["baseline_gpus"] or min(gpus_per_node, int(row["gpus"])))
    network, links = _network(row["interconnect"])
    half = "fp16" in row["precision"] or "half precision used for communication" in row["note"]
    return Question(
        model=_model(row["model"]),
        images_per_sec=_baseline_images_per_sec(row, rows, gpu, measured_on),
        measured_on=measured_on,
        micro_batch=int(row["per_gpu_batch"] or NOT_STATED_MICRO_BATCH),
        gpus_per_node=gpus_per_node,
        network=network,
        links=links,
        gpu=gpu.lower(),
        node_link="pcie3" if "on CPU" in text else None,
        dtype="fp16" if half else "fp32",
        algorithm="parameter-server" if "parameter server" in row["interconnect"] else choices.algorithm,
        # ChainerMN exchanges gradients when backward has ended (Akiba et al. 2017b, section 3).
        overlaps="akiba" not in row["source"] or not choices.heed_no_overlap,
        cpu_cores=None if row["dataset"] == "synthetic" else CORES[gpu],
    )


def _gpu(name: str) -> str:
    for gpu in CORES:
        if gpu in name:
            return gpu
    raise ValueError(f"no data sheet for {name or 'an unnamed accelerator'!r}")


@functools.cache
def _model(name: str) -> str:
    """The timm model of that name, spelled any way; a paper that trains "unspecified" networks on ImageNet
    has ResNet-50.
    """
    spelled = {re.sub("[^a-z0-9]", "", model): model for model in timm.list_models()}
    wanted = (
        "resnet50" if "unspecified" in name else re.sub("[^a-z0-9]", "", name.lower().removesuffix(" v1.5"))
    )
    if wanted not in spelled:
        raise ValueError(f"timm has no {name}")
    return spelled[wanted]


def _network(interconnect: str) -> tuple[str, int]:
    """Preset and ports a node from words such as "InfiniBand FDR (56 Gbit/s x2 per 8-GPU node)"."""
    links = int(_found(r"\bx ?(\d)\b", interconnect) or _found(r"\b(\d) ?x\b", interconnect) or 1)
    rate = _found(r"(\d+) ?(?:Gbit/s|Gbps|Gb/s|GbE)", interconnect)
    infiniband = _found(r"\b(QDR|FDR|EDR|HDR|NDR)\b", interconnect) or _INFINIBAND.get(rate, "EDR") * (
        "InfiniBand" in interconnect
    )
    if infiniband:
        return next(name for name in NETWORKS if infiniband.lower() in name), links
    # Where the words name no speed: 10 Gbit/s in a cloud of 2017, and InfiniBand EDR in a cluster built for
    # training.
    if not rate:
        return ("eth-10", 1) if "EC2" in interconnect else ("ib-edr-100", 1)
    return f"{'roce' if 'RoCE' in interconnect else 'eth'}-{rate}", links


_INFINIBAND = {"40": "QDR", "56": "FDR", "100": "EDR", "200": "HDR", "400": "NDR"}


def _baseline_images_per_sec(row: Row, rows: Iterable[Row], gpu: str, measured_on: int) -> float:
    if row["baseline_images_per_sec"]:
        return float(row["baseline_images_per_sec"])
    for other in rows:
        same = all(other[key] == row[key] for key in ("source", "model", "gpu_type"))
        if same and other["images_per_sec"] and int(other["gpus"]) == measured_on:
            return float(other["images_per_sec"])
    return UTILISATION * GPUS[gpu.lower()].tflops["fp32"] * 1e12 / RESNET50_FLOPS * measured_on


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "table", type=Path, nargs="?", default=TABLE, help="published results, one configuration a row"
    )
    table = parser.parse_args().table
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        print(f"{table} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    compared, left_out = compare(rows)
    for each in compared:
        p = each.predicted
        name = (
            f"{each.row['source']}, {each.row['gpus']} x {each.row['gpu_type']}, "
            f"{each.row['dataset'] or 'ImageNet'}"
        )
        interval = f"[{p.efficiency_low:.3f}, {p.efficiency_high:.3f}]"
        print(
            f"{name[:60]:60} published {each.published:.3f}  predicted {p.efficiency:.3f} "
            f"{interval}{'' if each.inside else ' *'}"
        )
    for row, reason in left_out:
        print(f"not predicted: {row['source']}, {row['gpus']} GPUs: {reason}")
    lines = [values(each, other) for each, other in zip(compared, blind(rows), strict=True)]
    result_rows.replace(lines, "scaling_prediction")
    if PAGE.parents[1] / "results" == result_rows.RESULTS:
        publish()
    print(block([{key: str(value) for key, value in line.items()} for line in lines]))
    scores = Scores.of(compared)
    return 0 if scores.error <= 3 and 0.80 <= scores.coverage <= 0.97 else 1


TABLE = Path(__file__).parents[2] / "shared" / "reference" / "scaling.csv"
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


def values(each: Compared, other: Compared) -> dict[str, Any]:
    """A row of results/: what was published, what is predicted, and what is predicted `blind`."""
    row = each.row
    named = {
        name: row[name]
        for name in ("source", "model", "dataset", "gpus", "gpu_type", "precision", "per_gpu_batch")
    }
    named |= {"baseline_gpus": row["baseline_gpus"], "published": f"{each.published:.4f}"}
    for prefix, one in (("", each), ("blind_", other)):
        predicted = {
            "predicted": one.predicted.efficiency,
            "low": one.predicted.efficiency_low,
            "high": one.predicted.efficiency_high,
        }
        named |= {f"{prefix}{name}": f"{value:.4f}" for name, value in predicted.items()}
    return named | {"command": "python -m bench.scaling_prediction"}


@dataclass(frozen=True, slots=True)
class Scores:
    """Mean absolute error and median width of the 90% interval in points of efficiency; share of published
    values inside.
    """

    error: float
    coverage: float
    width: float

    @staticmethod
    def of(compared: Sequence[Compared]) -> "Scores":
        return Scores(
            statistics.fmean(abs(each.error) for each in compared),
            statistics.fmean(each.inside for each in compared),
            statistics.median(
                100 * (each.predicted.efficiency_high - each.predicted.efficiency_low) for each in compared
            ),
        )

    @staticmethod
    def of_lines(lines: Sequence[Row], prefix: str) -> "Scores":
        numbers = [
            [
                float(line[name])
                for name in ("published", f"{prefix}predicted", f"{prefix}low", f"{prefix}high")
            ]
            for line in lines
        ]
        return Scores(
            statistics.fmean(100 * abs(predicted - published) for published, predicted, _, _ in numbers),
            statistics.fmean(low <= published <= high for published, _, low, high in numbers),
            statistics.median(100 * (high - low) for *_, low, high in numbers),
        )


def block(lines: Sequence[Row]) -> str:
    """The tables of docs/scaling.md, from the rows of results/scaling_prediction.csv."""
    text = [
        f"| {len(lines)} rows | mean absolute error | published value inside the 90% interval | median "
        "width |",
        "|---|---:|---:|---:|",
    ]
    for name, prefix in (
        ("as it is", ""),
        ("blind: choices made from the other publications alone", "blind_"),
    ):
        scores = Scores.of_lines(lines, prefix)
        text.append(
            f"| {name} | {scores.error:.2f} points | {scores.coverage:.1%} | {scores.width:.1f} points |"
        )
    text += [
        "",
        "| publication | rows | mean absolute error | inside | blind: error | inside |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for source in dict.fromkeys(line["source"] for line in lines):
        own = [line for line in lines if line["source"] == source]
        cells = [
            f"{score.error:.2f} | {score.coverage:.0%}"
            for score in (Scores.of_lines(own, ""), Scores.of_lines(own, "blind_"))
        ]
        text.append(f"| {source} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(text)


def publish() -> None:
    """Writes the tables into docs/scaling.md."""
    PAGE.write_text(
        with_block(PAGE.read_text(), "published_rows", block(result_rows.read("scaling_prediction")))
    )


if __name__ == "__main__":
    sys.exit(main())
