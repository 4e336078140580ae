"""scaling.csv, .json, .md, .png and one self-contained scaling.html from one or more reports.

Give a measured report and a predicted one together to see both in one picture: render measured.json
predicted.json --out FOLDER
"""

import argparse
import csv
import dataclasses
from pathlib import Path

from .chart import draw
from .page import NOT_MEASURED, page, percent, rate
from .report import Report, ReportError, Row, load, merged


def render(report: Report, folder: Path) -> list[Path]:
    """Write all five files into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"scaling.{kind}" for kind in ("csv", "json", "md", "png", "html")}
    _write_csv(report, paths["csv"])
    report.save(paths["json"])
    paths["md"].write_text(markdown(report))
    draw(report).savefig(paths["png"], dpi=130)
    paths["html"].write_text(page(report), encoding="utf-8")
    return list(paths.values())


def _write_csv(report: Report, path: Path) -> None:
    """Measured rows only, one column a field; empty cells were not measured."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in report.rows)


def markdown(report: Report) -> str:
    lines = ["| GPUs | nodes | kind | images/s | efficiency | status |", "|---:|---:|---|---:|---:|---|"]
    for row in report.rows:
        images, efficiency = rate(row.images_per_s) or NOT_MEASURED, percent(row.efficiency) or NOT_MEASURED
        lines.append(
            f"| {row.gpus} | {row.nodes} | {row.kind_words} | {images} | {efficiency} | {row.status} |"
        )
    for each in report.predictions:
        interval = (
            f"{100 * each.efficiency:.1f}% ({100 * each.efficiency_low:.1f} to "
            f"{100 * each.efficiency_high:.1f})"
        )
        lines.append(
            f"| {each.gpus} | {each.nodes} | {each.mode} | {rate(each.images_per_s)} | {interval} | "
            "predicted |"
        )
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", type=Path, help="reports by measure, predict --out or ingest")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")


def run(options: argparse.Namespace) -> int:
    report = merged(load(path) for path in options.reports)
    if not (report.rows or report.predictions):
        raise ReportError("nothing to show: the reports hold no measured and no predicted size")
    for path in render(report, options.out):
        print(path)
    return 0
