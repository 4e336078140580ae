"""Put a rendered report into the repository: its numbers as data, its picture, its table in docs/scaling.md.

    python -m tools.scaling_report.publish runs/scaling-demo/page --name scaling_demo

Writes results/NAME.json, docs/NAME.png and the text between the NAME markers of docs/scaling.md, so that no figure
is typed by hand.
"""

import argparse
import shutil
import sys
from pathlib import Path

from ..kit.publish import ROOT, with_block
from .page import number, percent
from .report import Report, ReportError, load


def block(report: Report, name: str) -> str:
    """The page's text for a report: picture, what was measured beside what is predicted, origin."""
    measured = {row.gpus: row for row in report.good_rows()}
    lines = [
        "| GPUs | measured images/s | efficiency | predicted images/s | efficiency (90% interval) |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in report.predictions:
        row = measured.get(each.gpus)
        rate, efficiency = (number(row.images_per_s, 1), percent(row.efficiency)) if row else (None, None)
        interval = (
            f"{100 * each.efficiency:.1f}% ({100 * each.efficiency_low:.1f} to "
            f"{100 * each.efficiency_high:.1f})"
        )
        lines.append(
            f"| {each.gpus} | {rate or '-'} | {efficiency or '-'} | {each.images_per_s:,.1f} | {interval} |"
        )
    table, origin = "\n".join(lines), report.provenance
    versions = " ".join(f"{package} {version}" for package, version in origin["versions"].items())
    source = (
        f"{origin['recipe']}; {origin['date']}; commit {origin['commit']} on {origin['hardware']}; {versions}"
    )
    return (
        "![images/s, efficiency and causes, measured and "
        f"predicted]({name}.png)\n\n{table}\n\n<sub>{source}</sub>"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="a folder by `render`")
    parser.add_argument("--name", required=True, help="name of the result and of the page's markers")
    options = parser.parse_args()
    scaling = ROOT / "docs" / "scaling.md"
    try:
        text = with_block(
            scaling.read_text(), options.name, block(load(options.page / "scaling.json"), options.name)
        )
    except (ReportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shutil.copy(options.page / "scaling.json", ROOT / "results" / f"{options.name}.json")
    shutil.copy(options.page / "scaling.png", ROOT / "docs" / f"{options.name}.png")
    scaling.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
