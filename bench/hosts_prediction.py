"""How well scaling over a real network is predicted: calibrated on one and two hosts, checked on four, at
three rates.

    python -m bench.hosts_prediction

Hosts are network namespaces on this machine with their sending rate limited; computing is sleeping
(lab/shaped.py), so that they do not slow each other; gradients, launches, DistributedDataParallel and gloo
are real. Each launch goes through all rates three times. The prediction gets one host's throughput, two
hosts' all-reduce sweep and points, and nothing that ran on four.

Takes about 7 minutes and a machine that does nothing else. Writes results/hosts_prediction.csv and the table
of docs/scaling.md; exits 1 if efficiency on four hosts is predicted more than 5 points off at any rate.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import parser
from bench import rows as result_rows
from bench.scaling_prediction import PAGE
from lab.hosts import Hosts, hosts_up, why_not
from lab.shaped import RATES, SETTLING_STEPS, STEPS_A_TURN, TURNS, recipe
from lbtrain.launch.hostfile import read_hostfile
from tools.kit.publish import with_block
from tools.scaling_report.measuring.study import TIMED_RUN, Study
from tools.scaling_report.measuring.timings import RankTimes, own_times, read_ranks, summarize
from tools.scaling_report.model.from_run import Named, read_baseline
from tools.scaling_report.model.prediction import Prediction
from tools.scaling_report.report import Collective, Report, Row, with_efficiency

ROOT = Path(__file__).parents[1]
AIM = 0.05  # of efficiency on four hosts
RECIPE = ROOT / "lab/shaped.py"
ALONE_STEPS, WARMUP = 12, 2
SWEEP, POINTS = "sweep", "points"


def study(out: Path, hostfile: str, steps: int) -> Study:
    options = argparse.Namespace(
        out=out,
        launcher="torchrun",
        port=29600,
        timeout=300,
        per_gpu_batch=None,
        repeats=1,
        zero=None,
        accumulation=[1],
        mode=["weak"],
        data=["synthetic"],
        gpus=[1, 2, 4],
        collectives=False,
        warmup=0,
        steps=steps,
        recipe=RECIPE,
        overrides=[],
    )
    return Study(options, read_hostfile(hostfile), recipe)


def run_inside(what: str, out: Path, hostfile: str) -> None:
    """On the first host: the all-reduce sweep of two hosts into a folder of this name, or all points."""
    if what != POINTS:
        study(out / what, hostfile, 0).launch(SWEEP, 2, [*TIMED_RUN, "{folder}", "collectives"])
        return
    short, long = study(out, hostfile, ALONE_STEPS), study(out, hostfile, run_steps())
    for hosts in (1, 2, 4):
        row = short.row(hosts, "weak", "synthetic")
        short.launch(f"alone{hosts}", hosts, short.words(row, "no-exchange"))
        chosen = short if hosts == 1 else long
        chosen.launch(f"together{hosts}", hosts, chosen.words(row, "exchange"))


def run_steps() -> int:
    """Steps to time of a run that goes through all rates: it also has a first one, which has no step before
    it to be timed from.
    """
    return len(RATES) * TURNS * STEPS_A_TURN - 1


def measure(out: Path) -> None:
    with hosts_up(4) as hosts:
        for rate in RATES:
            hosts.shape(rate)
            _run(hosts, rate, out)
        hosts.shape(None)
        _run(hosts, POINTS, out)


def _run(hosts: Hosts, what: str, out: Path) -> None:
    print(f"{what} ...", flush=True)
    command = [
        sys.executable,
        "-m",
        "bench.hosts_prediction",
        "--inside",
        what,
        hosts.hostfile(1),
        "--out",
        str(out),
    ]
    if hosts.call("node01", command, cwd=ROOT):
        sys.exit(f"{what} could not be measured: {out} has the logs")


def turns_at(rate: str, ranks: Sequence[RankTimes]) -> list[list[RankTimes]]:
    """Of a run that went through all rates, the settled steps of each turn at `rate`."""
    found = []
    for turn in range(TURNS):
        # A step's time is the interval from the end of the step before: the list of a run begins with its
        # second step.
        first = (turn * len(RATES) + RATES.index(rate)) * STEPS_A_TURN - 1
        chosen = slice(first + SETTLING_STEPS, first + STEPS_A_TURN)
        found.append([dataclasses.replace(each, steps=each.steps[chosen]) for each in ranks])
    return found


def report_at(rate: str, out: Path) -> Report:
    """What was measured at `rate` on one, two and four hosts, with the sweep of two."""
    points = out / "points"
    alone = {hosts: read_ranks(points / f"alone{hosts}", hosts, warmup=WARMUP) for hosts in (1, 2, 4)}
    rows = []
    for hosts, ranks in alone.items():
        together = read_ranks(points / f"together{hosts}", hosts, warmup=WARMUP if hosts == 1 else 0)
        row = Row(
            gpus=hosts, nodes=hosts, global_batch=8 * hosts, per_gpu_batch=8, accumulation=1, precision="fp32"
        )
        rows.append(summarize(row, [together] if hosts == 1 else turns_at(rate, together), ranks))
    sweep = json.loads((out / rate / "points" / SWEEP / "collectives.json").read_text())
    return Report(
        rows=with_efficiency(rows),
        own_times=[each for hosts in (1, 2) for each in own_times(alone[hosts])],
        collectives=[Collective(gpus=2, nodes=2, **each) for each in sweep],
        provenance={"buckets": alone[1][0].buckets},
    )


def predict(report: Report, file: Path) -> list[Prediction]:
    """Two and four hosts, from a report that knows nothing of four."""
    dataclasses.replace(report, rows=[row for row in report.rows if row.gpus < 4]).save(file)
    return read_baseline(file, Named()).predict([2, 4])


def lines_at(rate: str, out: Path) -> list[dict[str, Any]]:
    report = report_at(rate, out)
    by_size = {row.gpus: row for row in report.rows}
    alone = by_size[1].images_per_s_gpu
    lines = []
    for each in predict(report, out / rate / "known.json"):
        row = by_size[each.gpus]
        assert alone and row.efficiency and row.images_per_s_gpu_low and row.images_per_s_gpu_high
        measured = {
            "measured": row.efficiency,
            "measured_low": row.images_per_s_gpu_low / alone,
            "measured_high": row.images_per_s_gpu_high / alone,
        }
        predicted = {"predicted": each.efficiency, "low": each.efficiency_low, "high": each.efficiency_high}
        numbers = {name: f"{value:.4f}" for name, value in (measured | predicted).items()}
        used = "calibrated on" if each.gpus == 2 else "checked"
        lines.append(
            {
                "rate": rate,
                "hosts": each.gpus,
                "use": used,
                **numbers,
                "n": TURNS,
                "command": "python -m bench.hosts_prediction",
            }
        )
    return lines


def worst(lines: Sequence[dict[str, str]]) -> float:
    """How far off the efficiency on four hosts is, at the rate where it is farthest."""
    return max(
        abs(float(line["predicted"]) - float(line["measured"])) for line in lines if line["hosts"] == "4"
    )


def block(lines: Sequence[dict[str, str]]) -> str:
    """The table of docs/scaling.md, from the rows of results/hosts_prediction.csv."""
    if not lines:
        return (
            "Not measured yet: `python -m bench.hosts_prediction`, on a machine that does nothing else, "
            "writes this table."
        )
    text = [
        "| rate | hosts | measured efficiency (95% interval) | predicted (90% interval) | off by | |",
        "|---|---:|---|---|---:|---|",
    ]
    for line in lines:
        measured = (
            f"{float(line['measured']):.3f} ({float(line['measured_low']):.3f} to "
            f"{float(line['measured_high']):.3f})"
        )
        predicted = f"{float(line['predicted']):.3f} ({float(line['low']):.3f} to {float(line['high']):.3f})"
        error = 100 * (float(line["predicted"]) - float(line["measured"]))
        text.append(
            f"| {line['rate']} | {line['hosts']} | {measured} | {predicted} | {error:+.1f} points | "
            f"{line['use']} |"
        )
    text += [
        "",
        f"The aim is {100 * AIM:.0f} points at four hosts. The worst is {100 * worst(lines):.1f} points off.",
    ]
    text += [
        "",
        f"<sub>{lines[0]['command']}; {lines[0]['date']}, commit {lines[0]['commit']}, "
        f"{lines[0]['hardware']}</sub>",
    ]
    return "\n".join(text)


def main() -> int:
    flags = parser("python -m bench.hosts_prediction", __doc__)
    flags.add_argument(
        "--out",
        type=Path,
        help="folder for the measurement; one that is there is gone on with (default: a new one)",
    )
    flags.add_argument("--inside", nargs=2, metavar=("WHAT", "HOSTFILE"), help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.inside:
        run_inside(options.inside[0], options.out, options.inside[1])
        return 0
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    out = (options.out or Path(tempfile.mkdtemp(prefix="hosts_prediction-"))).resolve()
    measure(out)
    lines = [line for rate in RATES for line in lines_at(rate, out)]
    result_rows.replace(lines, "hosts_prediction")
    written = result_rows.read("hosts_prediction")
    if result_rows.published():
        PAGE.write_text(with_block(PAGE.read_text(), "hosts", block(written)))
    print(block(written))
    return 0 if worst(written) <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
