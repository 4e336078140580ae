"""scaling.csv, .json, .md, .png and one self-contained scaling.html from one or more reports.

Give a measured report and a predicted one together to see both in one picture: render measured.json
predicted.json --out FOLDER
"""

import argparse
import csv
import dataclasses
from pathlib import Path

from ..kit.charts import save
from ..kit.tables import Table
from .chart import charts_of
from .page import interval, page, percent, rate
from .report import Report, ReportError, Row, check_out, load, merged


def render(report: Report, folder: Path) -> list[Path]:
    """Write all five files into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"scaling.{kind}" for kind in ("csv", "json", "md", "png", "html")}
    _write_csv(report, paths["csv"])
    report.save(paths["json"])
    paths["md"].write_text(markdown(report), encoding="utf-8")
    save(charts_of(report), paths["png"])
    paths["html"].write_text(page(report), encoding="utf-8")
    return list(paths.values())


def _write_csv(report: Report, path: Path) -> None:
    """Measured rows only, one column a field; empty cells were not measured."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in report.rows)


def markdown(report: Report) -> str:
    rows: list[list[str | None]] = [
        [
            str(row.gpus),
            str(row.nodes),
            row.kind_label,
            rate(row.images_per_s),
            percent(row.efficiency),
            row.status,
        ]
        for row in report.rows
    ]
    rows += [
        [str(each.gpus), str(each.nodes), each.mode, rate(each.images_per_s), interval(each), "predicted"]
        for each in report.predictions
    ]
    head = ["GPUs", "nodes", "kind", "images/s", "efficiency", "status"]
    return Table(head, rows, align="rrlrrl").markdown() + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reports", nargs="+", type=Path, help="reports by measure or ingest, and one by predict --out"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")


def run(options: argparse.Namespace) -> int:
    for kind in ("csv", "json"):
        check_out(options.out / f"scaling.{kind}", options.reports)
    report = merged([(str(path), load(path)) for path in options.reports])
    if not (report.rows or report.predictions):
        raise ReportError("nothing to show: the reports hold no measured and no predicted size")
    for path in render(report, options.out):
        print(path)
    return 0
