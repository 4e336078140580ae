"""Two reports side by side; exit 1 if the second is slower than the first by more than the noise.

A size counts as slower when the two 95% intervals of images/s a GPU do not touch and the loss is at least 1%.
Where an interval was not measured (one repeat, or a log), a loss of 5% or more counts.
"""

import argparse
from pathlib import Path

from .report import ReportError, Row, load

LEAST_LOSS, LEAST_LOSS_WITHOUT_INTERVAL = 0.01, 0.05


def is_slower(before: Row, after: Row) -> bool:
    """Whether `after` is slower than `before` beyond the noise of both."""
    assert before.images_per_s_gpu and after.images_per_s_gpu
    loss = 1 - after.images_per_s_gpu / before.images_per_s_gpu
    if before.images_per_s_gpu_low is None or after.images_per_s_gpu_high is None:
        return loss >= LEAST_LOSS_WITHOUT_INTERVAL
    return after.images_per_s_gpu_high < before.images_per_s_gpu_low and loss >= LEAST_LOSS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path, help="the report that is the standard")
    parser.add_argument("after", type=Path, help="the report in question")


def run(options: argparse.Namespace) -> int:
    before, after = (_by_point(path) for path in (options.before, options.after))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ReportError(
            f"{options.before} and {options.after} share no measured point (GPUs, nodes, mode, data, ZeRO "
            "stage, accumulation, images a GPU, precision): state in both tables what the rows were of"
        )
    print(f"{'GPUs':>6}{'nodes':>7} {'kind':40}{'before':>12}{'after':>12}{'change':>9}   images/s a GPU")
    slower = [point for point in shared if _print_point(before[point], after[point])]
    for only, path in (
        (before.keys() - after.keys(), options.after),
        (after.keys() - before.keys(), options.before),
    ):
        if only:
            points = (
                f"{gpus} GPUs on {nodes} node{'s' * (nodes > 1)}, {kind}"
                for gpus, nodes, kind in sorted(only)
            )
            print(f"not in {path}: {'; '.join(points)}")
    print(
        f"slower beyond the noise at {len(slower)} of {len(shared)} points"
        if slower
        else "no slow-down beyond the noise"
    )
    return 1 if slower else 0


def _by_point(path: Path) -> dict[tuple[int, int, str], Row]:
    rows = [row for row in load(path).good_rows() if row.images_per_s_gpu]
    return {(row.gpus, row.nodes, row.kind_label): row for row in rows}


def _print_point(before: Row, after: Row) -> bool:
    assert before.images_per_s_gpu and after.images_per_s_gpu
    slower = is_slower(before, after)
    change = after.images_per_s_gpu / before.images_per_s_gpu - 1
    rates = f"{before.images_per_s_gpu:12,.1f}{after.images_per_s_gpu:12,.1f}{change:+9.1%}"
    point = f"{before.gpus:6}{before.nodes:7} {before.kind_label:40}"
    print(f"{point}{rates}   {'slower' if slower else ''}".rstrip())
    return slower
