"""How well scaling is predicted: every published efficiency of bench/published against `predict` with flags
from the same row.

    python -m bench.scaling_prediction [TABLE.csv ...]

The flags come from the row's own description of the hardware by the rules below, which know data sheets and
no results. A row whose hardware is not described is listed as not predicted.

Skill is the error of rows above 8 GPUs, averaged over publications, divided by that of a constant: the median
efficiency of all other publications. `blind` predicts each publication with values of the published
assumptions (`PUBLISHED`) that fit all other publications best.

Writes results/scaling_prediction.csv and the tables of docs/scaling.md; exits 1 if the blind skill is above
0.6, or the share of published values inside the 90% interval is outside 85% to 95% in a kind of 10 rows.
"""

import argparse
import csv
import dataclasses
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import rows as result_rows
from tools.kit.publish import with_block
from tools.scaling_report.model.assumptions import Assumptions, Spread
from tools.scaling_report.model.baseline import Baseline, WhatIf
from tools.scaling_report.model.prediction import Prediction
from tools.scaling_report.model.presets import GPUS
from tools.scaling_report.model.question import Question

Row = dict[str, str]
TABLES = sorted((Path(__file__).parent / "published").glob("scaling_*.csv"))
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
AIM_SKILL, AIM_COVERAGE, AIM_WIDTH = 0.6, (0.85, 0.95), 15.0
# Processor cores of the usual node around a GPU, from data sheets.
CORES = {
    "k80": 16,  # p2.8xlarge: 32 hyper-threads
    "p40": 40,
    "p100": 40,  # DGX-1: 2 x 20 cores
    "v100": 40,
    "a100": 128,  # DGX A100: 2 x 64 cores
    "h100": 112,  # DGX H100: 2 x 56 cores
}
# Where no throughput is printed: this share of the data sheet's arithmetic, for three passes of 4.1 G
# multiply-adds (ResNet-50).
UTILISATION, RESNET50_FLOPS = 0.4, 3 * 2 * 4.1e9
NOT_STATED_MICRO_BATCH = 64

# The assumptions that were chosen with these rows in view, and by what factors each may be another.
PUBLISHED = ("software_inside", "software_between", "half_factor", "tcp_gbit", "pass_images")
FACTORS = (0.5, 1.0, 2.0)


def read_tables(paths: Sequence[Path] = TABLES) -> list[Row]:
    return [row for path in paths for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]


@dataclass(frozen=True, slots=True)
class Asked:
    """A published efficiency and the question that its row asks."""

    row: Row
    published: float
    baseline: Baseline
    what_if: WhatIf

    @property
    def source(self) -> str:
        return self.row["source"]

    @property
    def gpus(self) -> int:
        return int(self.row["gpus"])

    @property
    def series(self) -> tuple[str, ...]:
        """What rows share that differ in nothing but the number of GPUs."""
        names = "source location model precision dataset per_gpu_batch baseline_images_per_sec"
        return tuple(self.row[name] for name in names.split())

    @property
    def large(self) -> bool:
        return self.gpus > 8

    @property
    def kinds(self) -> tuple[str, str, str]:
        half = "half precision" if self.baseline.job.value_bytes == 2 else "fp32 or tf32"
        one_node = self.gpus <= self.baseline.topology.gpus_per_node
        return (
            "one node" if one_node else "several nodes",
            half,
            "another batch a GPU" if self.what_if.micro_batch else "the measured batch a GPU",
        )

    def predict(self, assumptions: Assumptions) -> Prediction:
        baseline = dataclasses.replace(self.baseline, assumptions=assumptions)
        return baseline.predict([self.gpus], what_if=self.what_if)[0]


def ask(rows: Sequence[Row]) -> tuple[list[Asked], list[tuple[Row, str]]]:
    """Every row that states an efficiency of more GPUs than its baseline; second, the rows that cannot be
    asked, with the reason.
    """
    asked, left_out = [], []
    for row in rows:
        if not row["efficiency"] or row["efficiency_kind"] == "baseline":
            continue
        try:
            question, what_if = question_for(row, rows)
            asked.append(Asked(row, float(row["efficiency"]), question.baseline(), what_if))
        except ValueError as reason:
            left_out.append((row, str(reason)))
    return asked, left_out


@dataclass(frozen=True, slots=True)
class Line:
    """A prediction beside what was published, as a row of results/scaling_prediction.csv holds them."""

    source: str
    large: bool
    kinds: tuple[str, ...]
    published: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Points of efficiency."""
        return 100 * abs(self.predicted - self.published)

    @property
    def inside(self) -> bool:
        return self.low <= self.published <= self.high

    @staticmethod
    def of(asked: Asked, found: Prediction) -> "Line":
        values = found.efficiency, found.efficiency_low, found.efficiency_high
        return Line(asked.source, asked.large, asked.kinds, asked.published, *values)

    @staticmethod
    def read(row: Row, prefix: str = "") -> "Line":
        numbers = [
            float(row[name])
            for name in ("published", *(prefix + each for each in ("predicted", "low", "high")))
        ]
        return Line(row["source"], int(row["gpus"]) > 8, tuple(row["kinds"].split("; ")), *numbers)


def compare(asked: Sequence[Asked], assumptions: Assumptions | None = None) -> list[Line]:
    return [Line.of(each, each.predict(assumptions or Assumptions())) for each in asked]


def choices() -> Iterator[Assumptions]:
    """The assumptions as they stand, and each of PUBLISHED at other values."""
    usual = Assumptions()
    for name in PUBLISHED:
        spread: Spread = getattr(usual, name)
        for factor in FACTORS:
            values = (factor * value for value in (spread.median, spread.low, spread.high))
            changed: dict[str, Any] = {name: Spread(*values)}
            yield dataclasses.replace(usual, **changed)


def blind(asked: Sequence[Asked]) -> list[Line]:
    """Each row predicted with, of each of PUBLISHED, the value that is best for all other publications."""
    tried = [(each, compare(asked, dataclasses.replace(each, draws=300))) for each in choices()]
    return [
        Line.of(each, each.predict(chosen))
        for source in dict.fromkeys(each.source for each in asked)
        for chosen in [_best(tried, source)]
        for each in asked
        if each.source == source
    ]


def _best(tried: Sequence[tuple[Assumptions, list[Line]]], left_out: str) -> Assumptions:
    values: dict[str, Any] = {}
    for name, group in zip(PUBLISHED, _in_groups(tried, len(FACTORS)), strict=True):
        scored = [
            (mean_error([line for line in lines if line.source != left_out]), each) for each, lines in group
        ]
        values[name] = getattr(min(scored, key=lambda pair: pair[0])[1], name)
    return dataclasses.replace(Assumptions(), **values)


def _in_groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def mean_error(lines: Iterable[Line]) -> float:
    """Points, averaged over publications."""
    by_source: dict[str, list[float]] = {}
    for line in lines:
        by_source.setdefault(line.source, []).append(line.error)
    return statistics.fmean(statistics.fmean(errors) for errors in by_source.values())


def constant_error(lines: Sequence[Line]) -> float:
    """Points, averaged over publications, of the median of all other publications."""
    found = []
    for source in {line.source for line in lines}:
        constant = statistics.median(line.published for line in lines if line.source != source)
        own = [100 * abs(constant - line.published) for line in lines if line.source == source]
        found.append(statistics.fmean(own))
    return statistics.fmean(found)


def skill(lines: Sequence[Line]) -> float:
    """Error over the constant's, of rows above 8 GPUs."""
    large = [line for line in lines if line.large]
    return mean_error(large) / constant_error(large)


def coverage(lines: Sequence[Line]) -> float:
    return statistics.fmean(line.inside for line in lines)


def width(lines: Sequence[Line]) -> float:
    """Median width of the 90% interval, points."""
    return statistics.median(100 * (line.high - line.low) for line in lines)


def with_second_size(asked: Sequence[Asked]) -> list[Line | None]:
    """Each row predicted from the smallest published size of its series too; None where there is none between
    the baseline and the row.
    """
    found: list[Line | None] = []
    for each in asked:
        between = [
            (int(other.row["gpus"]), float(other.row["images_per_sec"]))
            for other in asked
            if other.series == each.series and other.row["images_per_sec"] and other.gpus < each.gpus
        ]
        rates = (*each.baseline.rates, *sorted(between)[:1])
        informed = dataclasses.replace(each, baseline=dataclasses.replace(each.baseline, rates=rates))
        found.append(compare([informed])[0] if between and not each.what_if.micro_batch else None)
    return found


def by_kind(lines: Sequence[Line]) -> dict[str, list[Line]]:
    kinds = sorted({kind for line in lines for kind in line.kinds})
    return {kind: [line for line in lines if kind in line.kinds] for kind in kinds}


def question_for(row: Row, rows: Sequence[Row]) -> tuple[Question, WhatIf]:
    """The flags that a row's own words give, and the change from the batch that its baseline was
    measured at.
    """
    gpu, text = _gpu(row["gpu_type"]), f"{row['interconnect']}; {row['gpu_type']}; {row['note']}"
    gpus_per_node = int(_found(r"(\d+)[ -]GPUs? (?:each|per|node)", text) or 8)
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
        cpu_cores=None if row["dataset"] == "synthetic" else CORES[gpu.split("-")[0]],
    ), WhatIf(micro_batch=images if images != at else None)


def _gpu(name: str) -> str:
    for gpu in CORES:
        if gpu in name.lower():
            return f"{gpu}-pcie" if "PCIE" in name else gpu
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
    links = int(_found(r"\bx ?(\d)\b", interconnect) or _found(r"\b(\d) ?x\b", interconnect) or 1)
    rate = _found(r"(\d+) ?(?:Gbit/s|Gbps|Gb/s|GbE)", interconnect)
    infiniband = _found(r"\b(QDR|FDR|EDR|HDR|NDR)\b", interconnect) or _INFINIBAND.get(rate, "EDR") * (
        "InfiniBand" in interconnect
    )
    if infiniband:
        usual = next(each for each, name in _INFINIBAND.items() if name == infiniband)
        return f"ib-{infiniband}-{rate or usual}", links
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
    return UTILISATION * GPUS[gpu].tflops["fp32"] * 1e12 / RESNET50_FLOPS * measured_on


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def values(each: Asked, line: Line, other: Line, second: Line | None) -> dict[str, Any]:
    """A row of results/: what was published, what is predicted, what is predicted `blind`, and from a second
    measured size.
    """
    names = ("source", "model", "dataset", "gpus", "gpu_type", "precision", "per_gpu_batch", "baseline_gpus")
    found: dict[str, Any] = {name: each.row[name] for name in names}
    found |= {"kinds": "; ".join(line.kinds), "published": f"{line.published:.4f}"}
    for prefix, one in (("", line), ("blind_", other), ("second_", second)):
        for name in ("predicted", "low", "high"):
            found[f"{prefix}{name}"] = f"{getattr(one, name):.4f}" if one else ""
    return found | {"command": "python -m bench.scaling_prediction"}


def block(rows: Sequence[Row]) -> str:
    """The tables of docs/scaling.md, from the rows of results/scaling_prediction.csv."""
    usual, others = ([Line.read(row, prefix) for row in rows] for prefix in ("", "blind_"))
    large = [line for line in usual if line.large]
    constant = constant_error(large)
    text = [
        f"| above 8 GPUs, mean over {len({line.source for line in large})} publications | error | skill |",
        "|---|---:|---:|",
        f"| a constant: the median of the other publications | {constant:.2f} points | 1 |",
        f"| as it is | {mean_error(large):.2f} points | {skill(usual):.2f} |",
        f"| blind | {skill(others) * constant:.2f} points | {skill(others):.2f} |",
        "",
        "| kind | rows | error | inside the 90% interval | median width | blind: error | inside |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    blinds = by_kind(others) | {"all": others}
    for kind, lines in (by_kind(usual) | {"all": usual}).items():
        mean, blind_mean = (statistics.fmean(line.error for line in each) for each in (lines, blinds[kind]))
        cells = f"{coverage(lines):.0%} | {width(lines):.1f} points | {blind_mean:.2f}"
        cells += f" | {coverage(blinds[kind]):.0%}"
        text.append(f"| {kind} | {len(lines)} | {mean:.2f} points | {cells} |")
    text += [
        "",
        "| publication | rows | error | inside | blind: error | inside |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for source in dict.fromkeys(line.source for line in usual):
        pair = [[line for line in lines if line.source == source] for lines in (usual, others)]
        cells = " | ".join(
            f"{statistics.fmean(line.error for line in each):.2f} | {coverage(each):.0%}" for each in pair
        )
        text.append(f"| {source} | {len(pair[0])} | {cells} |")
    return "\n".join([*text, "", _narrowing(rows), "", *_unmet(usual, others)])


def _narrowing(rows: Sequence[Row]) -> str:
    """What a second measured size does, in a sentence."""
    both = [row for row in rows if row["second_predicted"]]
    one, two = ([Line.read(row, prefix) for row in both] for prefix in ("", "second_"))
    errors = [f"{statistics.fmean(line.error for line in lines):.2f}" for lines in (one, two)]
    widths = [f"{width(lines):.1f}" for lines in (one, two)]
    return (
        f"A second measured size: {len(both)} rows have another published size below them. Predicted from "
        f"that too, their error goes from {errors[0]} to {errors[1]} points and the median width from "
        f"{widths[0]} to {widths[1]}; {coverage(two):.0%} are inside."
    )


def _unmet(usual: Sequence[Line], others: Sequence[Line]) -> list[str]:
    """The aims that are missed, in words; one sentence where none is."""
    low, high = AIM_COVERAGE
    missed = []
    if skill(others) > AIM_SKILL:
        missed.append(f"blind skill {skill(others):.2f}, the aim is {AIM_SKILL}")
    for kind, lines in by_kind(usual).items():
        if len(lines) >= 10 and not low <= coverage(lines) <= high:
            missed.append(f"{kind}: {coverage(lines):.0%} inside, the aim is {low:.0%} to {high:.0%}")
    if width(usual) > AIM_WIDTH:
        missed.append(f"median width {width(usual):.1f} points, the aim is {AIM_WIDTH:.0f}")
    return ["Not reached: " + "; ".join(missed) + "."] if missed else ["All aims are reached on these rows."]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", type=Path, nargs="*", default=TABLES, help="published results, one a row")
    tables = parser.parse_args().tables
    try:
        asked, left_out = ask(read_tables(tables))
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    found = compare(asked)
    for each, line in zip(asked, found, strict=True):
        print(_printed(each, line))
    for row, reason in left_out:
        print(f"not predicted: {row['source']}, {row['gpus']} GPUs: {reason}")
    others, second = blind(asked), with_second_size(asked)
    rows = [values(*each) for each in zip(asked, found, others, second, strict=True)]
    if tables == TABLES:
        result_rows.replace(rows, "scaling_prediction")
        if PAGE.parents[1] / "results" == result_rows.RESULTS:
            publish()
    text = block([{key: str(value) for key, value in row.items()} for row in rows])
    print(text)
    return 1 if "Not reached" in text else 0


def _printed(each: Asked, line: Line) -> str:
    row = each.row
    name = (
        f"{row['source']}, {row['model']}, {row['gpus']} x {row['gpu_type']}, {row['dataset'] or 'ImageNet'}"
    )
    interval = f"[{line.low:.3f}, {line.high:.3f}]{'' if line.inside else ' *'}"
    return f"{name[:70]:70} published {line.published:.3f}  predicted {line.predicted:.3f} {interval}"


def publish() -> None:
    """Writes the tables into docs/scaling.md."""
    rows = result_rows.read("scaling_prediction")
    PAGE.write_text(with_block(PAGE.read_text(), "published_rows", block(rows)))


if __name__ == "__main__":
    sys.exit(main())
