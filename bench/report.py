"""results/*.csv -> docs/results.md and docs/results.png: the newest row of every comparison, as a table and
as a picture.

    python -m bench.report            writes both
    python -m bench.report --check    exits with 1 if a page is not what the rows say
"""

import csv
import re
import sys
import textwrap
from pathlib import Path

from bench import parser, rows
from tools.study import claims

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.png"
Line = dict[str, str]

TITLES = {
    "train": "Training speed and memory against the peers' loops",
    "two_ranks": "A second rank on one machine",
    "optim": "Optimizer steps",
    "input": "Decoding and augmentation",
    "hessian": "Hessian-vector products",
    "noise_scale": "What measuring the noise scale costs",
    "checkpoint": "What saving costs",
    "accuracy": "Time to accuracy on CIFAR-10",
    "stopwatch": "What the scaling report's stopwatch costs",
    "startup": "Starting",
    "slowest_rank": "What it costs to name the slowest rank",
    "gpu": "On a GPU",
}
NOTES = {
    "accuracy": """\
The runs in bf16 had one core of the machine, and the other was busy. In fp32 timm's script has no time: it
validated on images that its default enlarges to 36 pixels and crops to 32, and reached neither error. Since
then `bench.accuracy` has it validate on the images as they are; fp32 was not repeated.""",
    "input": """\
The rows of `index-folder` and `index-tar` count the first round, which warms up. Since then `bench.input`
leaves it out, as it does in the other cases.""",
    "checkpoint": """\
This row was measured with as many threads as cores. Since then `bench.checkpoint` measures with one.""",
    "startup": """\
These rows leave out the processor time of the ranks' guards, which `bench.startup` has counted since
then.""",
}
"""What a reader of a table must know besides."""
OPENING = """\
# Results

The newest row of each comparison in [results/](../results), where every row carries its command, commit,
versions, hardware and date. A ratio is the median over n paired rounds, in turns on one machine, with the 95
% interval of that median (of fewer than six rounds: the smallest and the largest); "aim" is the bound that
was set beforehand, and "met" whether the ratio keeps it, with a question mark where the aim lies within the
interval, or where there was one run: the next measurement may say otherwise. This page is made by
`python -m bench.report`; `make bench` measures again, all but the time to accuracy
(`python -m bench.accuracy`), and `make bench-check` compares new ratios with those of the same hardware.

![every ratio, as times as good as the peer](results.png)
"""

NOT_MET = """\
## Aims that were not met

`train-large` of the inputs reads photos that were made by enlarging those of `train`. On ZeRO-1 shards the
norms of whole layers must be known before the update reads the same memory again; a step on whole layers need
not wait for them. The first aim for one Hessian-vector product that keeps its graph, half of PyHessian's
time, was not met in any measurement, and was given up on 2026-11-28 for the time to five eigenvalues.

"""

CLAIMED = """\
## What the sources claim, tried here

Each row compares two points of [results/](../results): the top-1 error of one less that of the other, in
percentage points, or a measure of sharpness ([landscape.md](landscape.md)). The bounds (`held if`) are ours.
A claim is held or not held where the whole 95% interval of the row (Welch's t) says so, and open where it
says neither. `linear` and `unscaled` have their rate from batch 32 or 128, untuned at a large batch, and the
small-batch recipes have one rate, where Masters & Luschi take the best for each batch; on CIFAR-10 the best
learning rates of LAMB, AdamW, Muon and of the SGD at 128 are the largest that their searches tried
([accuracy.md](accuracy.md)), and no run has converged, so that Keskar's claim about minima is tried at the
ends of training only. Several rows of one claim have no correction for their number. On digits
the reference has an error of 0.7 %, so that a bound of one point is a wide one; and ABSA's batch grew there
by its patience more often than by the curvature, on CIFAR-10 by its patience alone
([methods.md](methods.md#each-method-measured)).

"""

COUNTS = ("products",)
"""Units of what is counted: a second count would find the same."""

ELSEWHERE = """\
## Measured, and shown elsewhere

- what faults cost, and an hour of kills: [reliability.md](reliability.md),
  [faults.csv](../results/faults.csv), [soak.csv](../results/soak.csv);
- how right predicted scaling was, against published clusters and against hosts with a real network between
  them: [scaling.md](scaling.md), [scaling_prediction.csv](../results/scaling_prediction.csv),
  [hosts_prediction.csv](../results/hosts_prediction.csv);
- accuracy against batch size: [accuracy.md](accuracy.md) and [methods.md](methods.md), from
  [digits_demo.json](../results/digits_demo.json), [cifar10_curve.json](../results/cifar10_curve.json) and
  `results/*_{sweep,methods,tuning}*.json`;
- sharpness: [landscape.md](landscape.md), [cifar10_sharpness.json](../results/cifar10_sharpness.json);
- the critical batch that was predicted, and the steps that were measured: [landscape.md](landscape.md) and
  [accuracy.md](accuracy.md#how-large-a-batch-pays), [steps_to_loss.json](../results/steps_to_loss.json),
  [cifar10_steps.json](../results/cifar10_steps.json);
- Mask R-CNN: [detection.md](detection.md), [mask_rcnn_shapes.json](../results/mask_rcnn_shapes.json).

Some numbers in the text of these pages (how often a batch doubled, eigenvalues along a run, shares of
padding) were read from runs, and stand in no file of results/.
"""


def newest(path: Path, *, hardware: str | None = None) -> list[Line]:
    """The last row of each (case, peer), in the order in which they first appeared, of this `hardware` where
    one is given; empty for a table of another kind.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"case", "peer_name", "ratio", "target"} <= set(reader.fieldnames or ()):
            return []
        lines = [line for line in reader if hardware in (None, line["hardware"])]
    return list({(line["case"], line["peer_name"]): line for line in lines}.values())


def tables() -> dict[str, list[Line]]:
    """By name of the file, those named in TITLES first."""
    found = {path.stem: newest(path) for path in sorted(rows.RESULTS.glob("*.csv"))}
    order = sorted(
        found, key=lambda name: (list(TITLES).index(name) if name in TITLES else len(TITLES), name)
    )
    return {name: found[name] for name in order if found[name]}


def better(line: Line, ratio: str) -> float:
    """`ratio` as "times as good as the peer": rates grow, everything else should shrink."""
    value = float(ratio)
    higher_is_better = line["target"].startswith(">") or (
        not line["target"] and line["unit"].startswith(("images/s", "of 1"))
    )
    return value if higher_is_better else 1 / value


def page(found: dict[str, list[Line]]) -> str:
    parts = [OPENING]
    for name, lines in found.items():
        parts += [f"## {TITLES.get(name, name)}", _table(lines), NOTES.get(name, ""), _origins(name, lines)]
    if "gpu" not in found:
        parts += [
            f"## {TITLES['gpu']}",
            "Not measured: no GPU has been at hand. `python -m bench.gpu` measures on one card what "
            "eight minutes allow.",
        ]
    parts += [NOT_MET + not_met(found), CLAIMED + claims.table(), ELSEWHERE]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def not_met(found: dict[str, list[Line]]) -> str:
    """The list of aims that were missed, each with its ratio; first those that the interval leaves
    no doubt of.
    """
    lines = [(name, line) for name, table in found.items() for line in table if line["met"] == "no"]
    return "\n".join(
        f"- {name}: {line['case']}, against {line['peer_name']}: {_ratio(line)}, aim {line['target']}"
        + (", which lies within the interval" if _is_open(line) else "")
        for name, line in sorted(lines, key=lambda each: _is_open(each[1]))
    )


def _is_open(line: Line) -> bool:
    """Whether the aim lies within the interval, or there is none."""
    if not line["target"]:
        return False
    low, high = float(line["ratio_low"]), float(line["ratio_high"])
    return _is_single(line) or low <= rows.bound(line["target"]) <= high


def _is_single(line: Line) -> bool:
    """Whether it is of one measurement that another one may not repeat, and so has no interval."""
    return line["n"] == "1" and line["unit"] not in COUNTS


def _ratio(line: Line) -> str:
    """With a fourth digit where three would round it onto its target."""
    ratio, low, high = (float(line[key]) for key in ("ratio", "ratio_low", "ratio_high"))
    rounded = line["target"] and rows.bound(line["target"]) == round(ratio, 3) != ratio
    interval = "" if _is_single(line) else f" ({low:.3f} to {high:.3f})"
    return f"{ratio:.{4 if rounded else 3}f}{interval}"


def _table(lines: list[Line]) -> str:
    header = "| case | ours | peer | ratio (95 % interval) | aim | met | n |\n|---|---|---|---|---|---|---|"
    return "\n".join([header, *map(_row, lines)])


def _row(line: Line) -> str:
    ours = f"{float(line['ours']):.4g} {line['unit']}"
    if not line["ratio"]:
        return f"| {line['case']} | {ours} | - | - | - | - | {line['n']} |"
    peer = f"{line['peer_name']}: {float(line['peer']):.4g}"
    met = (line["met"] or "-") + "?" * _is_open(line)
    return (
        f"| {line['case']} | {ours} | {peer} | {_ratio(line)} | {line['target'] or '-'} | {met} | "
        f"{line['n']} |"
    )


def _origins(name: str, lines: list[Line]) -> str:
    """One sentence per origin: most tables have one. Which of its cases a command measured is left out."""
    origins = dict.fromkeys(
        (
            re.sub(r" --(cases|engines) ('[^']*'|\S+)", "", line["command"]),
            line["commit"],
            line["date"],
            line["hardware"],
        )
        for line in lines
    )
    said = [
        f"`{command}`, commit {commit}, {date}, {hardware}" for command, commit, date, hardware in origins
    ]
    return f"<sub>[results/{name}.csv](../results/{name}.csv): {'; '.join(said)}</sub>"


def draw(found: dict[str, list[Line]], path: Path) -> None:
    """One line per ratio: median with its 95 % interval, on a logarithmic axis; green met, red not met, grey
    without an aim, hollow where it is open.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for table in found.values() for line in table if line["ratio"]]
    figure, axes = pyplot.subplots(figsize=(11, 0.8 + 0.27 * len(lines)), layout="constrained")
    for height, line in enumerate(lines):
        colour = {"yes": "#1a7f37", "no": "#c62828", "": "#777777"}[line["met"]]
        low, middle, high = (better(line, line[key]) for key in ("ratio_low", "ratio", "ratio_high"))
        axes.plot([low, high], [height, height], color=colour, linewidth=2, alpha=0.5)
        filling = "white" if _is_open(line) else colour
        axes.plot(middle, height, "o", color=colour, markersize=5, markerfacecolor=filling)
    names = [textwrap.fill(f"{line['case']} vs {line['peer_name']}", 90) for line in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.5, 0.7, 1, 1.4, 2, 3, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(
        "times as good as the peer (faster, or smaller):\nmedian and its 95 % interval\n"
        "green: aim met, red: not met, grey: no aim\n"
        "hollow: open (the interval holds the aim, or there was one run)"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    flags = parser("python -m bench.report", __doc__, hide_gpus=False)
    flags.add_argument(
        "--check", action="store_true", help="Write nothing, and exit with 1 if the page is stale."
    )
    options = flags.parse_args()
    if not rows.published():
        return print(f"the rows are in {rows.RESULTS}: no page of the repository is made from them")
    found = tables()
    if options.check:
        fresh = PAGE.read_text() == page(found)
        sys.exit(None if fresh else f"{PAGE.name} is stale: python -m bench.report")
    PAGE.write_text(page(found))
    draw(found, PICTURE)
    print(f"wrote {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
