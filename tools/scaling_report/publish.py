"""Put a rendered report into the repository: its numbers as data, its picture, its table in docs/scaling.md.

    python -m tools.scaling_report.publish runs/scaling-demo/page --name scaling_demo

Writes results/NAME.json, docs/NAME.png and the text between the NAME markers of the page, so that no figure
is typed by hand.
"""

import sys
from pathlib import Path

from ..kit import command
from ..kit.publish import ROOT, add_options, publish
from .page import interval, number, percent
from .report import Report, ReportError, load


def block(report: Report, name: str) -> str:
    """The page's text for a report: picture, what was measured beside what is predicted, origin."""
    kinds = sorted({row.kind_label for row in report.good_rows()})
    if len(kinds) > 1:
        raise ReportError(f"the page shows rows of one kind, not of {'; '.join(kinds)}: render one of them")
    measured = {row.gpus: row for row in report.good_rows()}
    lines = [
        "| GPUs | measured images/s | efficiency | predicted images/s | efficiency (90% interval) |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in report.predictions:
        row = measured.get(each.gpus)
        rate, efficiency = (number(row.images_per_s, 1), percent(row.efficiency)) if row else (None, None)
        found = f"{rate or '-'} | {efficiency or '-'} | {each.images_per_s:,.1f} | {interval(each)}"
        lines.append(f"| {each.gpus} | {found} |")
    table, origin = "\n".join(lines), report.provenance
    commits = ", ".join(dict.fromkeys(each["commit"] for each in (origin, *origin.get("resumed", ()))))
    versions = " ".join(f"{package} {version}" for package, version in origin["versions"].items())
    source = f"{origin['recipe']}; {origin['date']}; commit {commits} on {origin['hardware']}; {versions}"
    return (
        "![images/s, efficiency and causes, measured and "
        f"predicted]({name}.png)\n\n{table}\n\n<sub>{source}</sub>"
    )


def main() -> int:
    parser = command.parser("scaling_report.publish", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="A folder that `render` wrote.")
    add_options(parser, page=ROOT / "docs" / "scaling.md")
    options = parser.parse_args()

    def put() -> None:
        report = load(options.folder / "scaling.json")
        publish(options.folder, "scaling", options.name, options.page, block(report, options.name))

    return command.exit_code(put)


if __name__ == "__main__":
    sys.exit(main())
