"""How well scaling is predicted: every published efficiency of bench/published against `predict` with flags
from the same row.

    python -m bench.scaling_prediction [TABLE.csv ...]

The flags come from the row's own description of the hardware by the rules below, which know data sheets and
no results. A row whose hardware is not described is listed as not predicted.

Skill is the error of rows above 8 GPUs, averaged over publications, divided by that of a constant: the median
efficiency of all other publications. `blind` predicts each publication with values of the published
assumptions (`PUBLISHED`) that fit all other publications best.

Writes results/scaling_prediction.csv and the tables of docs/scaling.md; exits 1 if the blind skill is above
0.6, the share of published values inside the 90% interval is outside 85% to 95% in a kind of 10 rows, or the
median width of the intervals is above 15 points.
"""

import csv
import dataclasses
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import parser
from bench import rows as result_rows
from bench.published_flags import Row, question_for
from bench.skill import Line, by_kind, constant_error, coverage, mean_error, skill, width
from tools.kit.publish import with_block
from tools.scaling_report.model.assumptions import Assumptions, Spread
from tools.scaling_report.model.baseline import Baseline, WhatIf

TABLES = sorted((Path(__file__).parent / "published").glob("scaling_*.csv"))
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
AIM_SKILL, AIM_COVERAGE, AIM_WIDTH = 0.6, (0.85, 0.95), 15.0
# The assumptions that were chosen with these rows in view, and by what factors each may be another.
PUBLISHED = ("software_inside", "software_between", "half_factor", "tcp_gbit", "pass_images")
FACTORS = (0.5, 1.0, 2.0)


def read_tables(paths: Sequence[Path] = TABLES) -> list[Row]:
    return [row for path in paths for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]


@dataclass(frozen=True, slots=True)
class Case:
    """A published efficiency, and what is predicted from."""

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

    def line(self, assumptions: Assumptions) -> Line:
        """What is predicted under these assumptions, beside what was published."""
        baseline = dataclasses.replace(self.baseline, assumptions=assumptions)
        (found,) = baseline.predict([self.gpus], what_if=self.what_if)
        values = found.efficiency, found.efficiency_low, found.efficiency_high
        return Line(self.source, self.large, self.kinds, self.published, *values)


def cases_of(rows: Sequence[Row]) -> tuple[list[Case], list[tuple[Row, str]]]:
    """Every row that states an efficiency of more GPUs than its baseline; second, the rows that cannot be
    predicted, with the reason.
    """
    cases, left_out = [], []
    for row in rows:
        if not row["efficiency"] or row["efficiency_kind"] == "baseline":
            continue
        try:
            question, what_if = question_for(row, rows)
            cases.append(Case(row, float(row["efficiency"]), question.baseline(), what_if))
        except ValueError as reason:
            left_out.append((row, str(reason)))
    return cases, left_out


def compare(cases: Sequence[Case], assumptions: Assumptions | None = None) -> list[Line]:
    return [each.line(assumptions or Assumptions()) for each in cases]


def choices() -> Iterator[Assumptions]:
    """The assumptions as they stand, and each of PUBLISHED at other values."""
    usual = Assumptions()
    for name in PUBLISHED:
        spread: Spread = getattr(usual, name)
        for factor in FACTORS:
            values = (factor * value for value in (spread.median, spread.low, spread.high))
            changed: dict[str, Any] = {name: Spread(*values)}
            yield dataclasses.replace(usual, **changed)


def blind(cases: Sequence[Case]) -> list[Line]:
    """Each row predicted with, of each of PUBLISHED, the value that is best for all other publications."""
    tried = [(each, compare(cases, dataclasses.replace(each, draws=1000))) for each in choices()]
    return [
        each.line(chosen)
        for source in dict.fromkeys(each.source for each in cases)
        for chosen in [_best(tried, source)]
        for each in cases
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


def with_second_size(cases: Sequence[Case]) -> list[Line | None]:
    """Each row predicted from the smallest published size of its series too; None where there is none between
    the baseline and the row.
    """
    found: list[Line | None] = []
    for each in cases:
        between = [
            (int(other.row["gpus"]), float(other.row["images_per_sec"]))
            for other in cases
            if other.series == each.series and other.row["images_per_sec"] and other.gpus < each.gpus
        ]
        rates = (*each.baseline.rates, *sorted(between)[:1])
        informed = dataclasses.replace(each, baseline=dataclasses.replace(each.baseline, rates=rates))
        found.append(compare([informed])[0] if between and not each.what_if.micro_batch else None)
    return found


def values(each: Case, line: Line, other: Line, second: Line | None) -> dict[str, Any]:
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
    aims = (
        f"The aims: a blind skill of at most {AIM_SKILL}, {low:.0%} to {high:.0%} inside in each kind of ten "
        f"rows or more, and a median width of at most {AIM_WIDTH:.0f} points."
    )
    return [f"{aims} " + ("Not reached: " + "; ".join(missed) + "." if missed else "All are reached.")]


def main() -> int:
    flags = parser("python -m bench.scaling_prediction", __doc__)
    flags.add_argument("tables", type=Path, nargs="*", default=TABLES, help="published results, one a row")
    tables = flags.parse_args().tables
    try:
        cases, left_out = cases_of(read_tables(tables))
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    found = compare(cases)
    for each, line in zip(cases, found, strict=True):
        print(_printed(each, line))
    for row, reason in left_out:
        print(f"not predicted: {row['source']}, {row['gpus']} GPUs: {reason}")
    if len({line.source for line in found if line.large}) < 2:
        print("no skill: it is against the median of other publications, and no two have rows above 8 GPUs")
        return 0
    others, second = blind(cases), with_second_size(cases)
    rows = [values(*each) for each in zip(cases, found, others, second, strict=True)]
    if tables == TABLES:
        result_rows.replace(rows, "scaling_prediction")
        if result_rows.published():
            publish()
    text = block([{key: str(value) for key, value in row.items()} for row in rows])
    print(text)
    return 1 if "Not reached" in text else 0


def _printed(each: Case, line: Line) -> str:
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
