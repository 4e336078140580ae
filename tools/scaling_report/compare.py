"""Two reports side by side; exit 1 if the second is slower than the first by more than the noise, or if a
point of the first failed in the second.

A size counts as slower when the two 95% intervals of images/s a GPU do not touch and the loss is at least 1%.
Where an interval was not measured (one repeat, or a log), a loss of 5% or more counts.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .report import ReportError, Row, load

Point = tuple[int, int, str]
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
    rows_before, rows_after = load(options.before).rows, load(options.after).rows
    before, after = _by_point(rows_before), _by_point(rows_after)
    shared = sorted(before.keys() & after.keys())
    failed, failed_before = _failed(before, after, rows_after), _failed(after, before, rows_before)
    if not (shared or failed):
        raise ReportError(
            f"{options.before} and {options.after} share no measured point (GPUs, nodes, mode, data, ZeRO "
            "stage, accumulation, images a GPU, precision): state in both tables what the rows were of"
        )
    print(f"{'GPUs':>6}{'nodes':>7} {'kind':40}{'before':>12}{'after':>12}{'change':>9}   images/s a GPU")
    slower = [point for point in shared if _print_point(before[point], after[point])]
    for only, broken, path in (
        (before.keys() - after.keys(), failed, options.after),
        (after.keys() - before.keys(), failed_before, options.before),
    ):
        if points := [f"{_words(point)} ({status})" for point, status in broken.items()]:
            print(f"failed in {path}: {'; '.join(points)}")
        if points := [_words(point) for point in sorted(only - broken.keys())]:
            print(f"not in {path}: {'; '.join(points)}")
    if shared:
        print(
            f"slower beyond the noise at {len(slower)} of {len(shared)} points"
            if slower
            else "no slow-down beyond the noise"
        )
    return 1 if slower or failed else 0


def _is_good(row: Row) -> bool:
    return row.status == "ok" and bool(row.images_per_s_gpu)


def _by_point(rows: Sequence[Row]) -> dict[Point, Row]:
    return {(row.gpus, row.nodes, row.kind_label): row for row in rows if _is_good(row)}


def _failed(good: Mapping[Point, Row], other: Mapping[Point, Row], rows: Sequence[Row]) -> dict[Point, str]:
    """The points of `good` that failed in the `other` report, whose rows are `rows`, with the status. A row
    that was rejected before it was planned has no precision.
    """
    return {
        point: row.status
        for point in sorted(good.keys() - other.keys())
        for row in rows
        if row.status != "ok" and _may_be(row, good[point])
    }


def _may_be(failed: Row, good: Row) -> bool:
    of_one = failed if failed.precision else replace(failed, precision=good.precision)
    return (of_one.gpus, of_one.nodes, of_one.kind) == (good.gpus, good.nodes, good.kind)


def _words(point: Point) -> str:
    gpus, nodes, kind = point
    return f"{gpus} GPUs on {nodes} node{'s' * (nodes > 1)}, {kind}"


def _print_point(before: Row, after: Row) -> bool:
    assert before.images_per_s_gpu and after.images_per_s_gpu
    slower = is_slower(before, after)
    change = after.images_per_s_gpu / before.images_per_s_gpu - 1
    rates = f"{before.images_per_s_gpu:12,.1f}{after.images_per_s_gpu:12,.1f}{change:+9.1%}"
    point = f"{before.gpus:6}{before.nodes:7} {before.kind_label:40}"
    print(f"{point}{rates}   {'slower' if slower else ''}".rstrip())
    return slower
