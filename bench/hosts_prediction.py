"""How well scaling over a real network is predicted: calibrated on one and two hosts, checked on four.

    python -m bench.hosts_prediction --rate 500mbit --out runs/hosts_prediction

Hosts are network namespaces with their sending rate limited; computing is sleeping (tests/cluster/sleeping.py), so that hosts on one
machine do not slow each other; gradients, launches, DistributedDataParallel and gloo are real. Takes about five minutes. Exits 1 if
efficiency on four hosts is predicted more than 5 points off.
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

from tools.scaling_report.from_run import MeasuredRun
from tools.scaling_report.report import load
from tools.scaling_report.what_if import WhatIf

ROOT = Path(__file__).parents[1]


def measure(rate: str, out: Path) -> None:
    hosts = [sys.executable, "-m", "tests.cluster.hosts", "4", "--rate", rate, "--"]
    flags = ["--hostfile", "{hostfile}", "--gpus", "1,2,4", "--steps", "8", "--warmup", "2", "--collectives", "--resume", "--out", str(out)]
    command = [*hosts, sys.executable, "-m", "tools.scaling_report", "measure", *flags, str(ROOT / "tests/cluster/sleeping.py")]
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="500mbit", help="what each host can send (default 500mbit)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the measurement; one that is there is gone on with")
    options = parser.parse_args()
    measure(options.rate, options.out.resolve())
    report = load(options.out / "report.json")
    measured = {row.gpus: row for row in report.good_rows()}
    # The prediction sees nothing that ran on four hosts.
    known = dataclasses.replace(
        report,
        rows=[row for row in report.rows if row.gpus < 4],
        collectives=[each for each in report.collectives if each.nodes < 4],
    )
    known.save(options.out / "known.json")
    predictions = MeasuredRun.read(options.out / "known.json", network=None, links=1).answer([2, 4], what_if=WhatIf())
    for each in predictions:
        efficiency = measured[each.gpus].efficiency or 0.0
        interval = f"[{each.efficiency_low:.3f}, {each.efficiency_high:.3f}]"
        error = 100 * (each.efficiency - efficiency)
        print(f"{each.gpus} hosts: measured {efficiency:.3f}, predicted {each.efficiency:.3f} {interval}, {error:+.1f} points")
    return 0 if abs(error) <= 5 else 1


if __name__ == "__main__":
    sys.exit(main())
