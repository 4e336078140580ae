"""Latency, bandwidth, overlap and jitter from measured points, and how well the points determine each.

The network's values come from timed all-reduces (`measure --collectives`) and, apart from these, from the
step times of points over several nodes. Jitter comes from the step times of each rank in the runs without
exchange.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import arguments
from .model.assumptions import Assumptions
from .model.baseline import Baseline
from .model.calibrate import Fitted, FittedLink, fit_link, link_from_steps, unhidden_share, usable
from .model.from_run import Named, read_baseline, step_times
from .model.jitter import Slowest, StepTimes
from .model.layers import BYTES
from .model.presets import GPUS, NETWORKS
from .report import Report, ReportError, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "report",
        type=Path,
        help="a report by `measure`, best with --collectives, or by `ingest`; or a table (.csv) with columns "
        "gpus and images_per_s",
    )
    add("--model", help="of a table or a log: what was trained")
    add("--micro-batch", type=arguments.count, help="of a table or a log: images a GPU takes at once")
    add("--network", type=arguments.preset_name(NETWORKS), metavar="NAME", help="of a table or a log")
    add("--links", type=arguments.count, default=1, help="network ports of a node (default 1)")
    add("--gpu", type=arguments.preset_name(GPUS), metavar="NAME", help="of a table or a log")
    add("--gpus-per-node", type=arguments.count, help="default 8, or what the report shows")
    add("--dtype", choices=BYTES, help="of a table or a log: what was computed in")
    add(
        "--gradient-bytes",
        type=arguments.gradient_bytes,
        default=4,
        metavar="BYTES",
        help="of a table or a log: bytes of an exchanged value, 4 (default) or 2; or the size of all "
        "gradients (178MB), for a model that --model does not know",
    )


def run(options: argparse.Namespace) -> int:
    report = load(options.report, gpus_per_node=options.gpus_per_node)
    lines = [
        *_sweeps(report),
        *_steps(report, options),
        *_jitter(report),
        *_throughputs(report, options),
    ]
    if not lines:
        raise ReportError(
            f"{options.report} holds nothing to fit: run measure, with --collectives for the network"
        )
    print("\n".join(lines))
    return 0


def _sweeps(report: Report) -> list[str]:
    between = [point for point in report.collectives if point.nodes > 1]
    inside = [point for point in report.collectives if point.nodes == 1 and point.gpus > 1]
    named = (("between nodes", between), ("inside a node", inside))
    return [
        line
        for name, points in named
        if points
        for line in _link(f"{name}, by all-reduce", fit_link(points), f"{len(points)} timings")
    ]


def _run(options: argparse.Namespace) -> Baseline:
    names = [each.name for each in dataclasses.fields(Named)]
    return read_baseline(options.report, Named(**{name: getattr(options, name) for name in names}))


def _steps(report: Report, options: argparse.Namespace) -> list[str]:
    """What the step times tell; they need a point with images/s to start from."""
    points = usable(report.rows)
    if not points or not report.good_rows():
        return []
    run = _run(options)
    by_steps = link_from_steps(report.rows, run.job.buckets, run.topology)
    lines = _link(
        "between nodes, by step times",
        by_steps,
        f"{len(points)} points of {', '.join(str(row.gpus) for row in points)} GPUs",
    )
    share = (
        unhidden_share(report.rows, run.job.buckets, run.topology, run.topology.between)
        if report.collectives
        else None
    )
    if share:
        words = f"{share.low:.0%} to {share.high:.0%}"
        lines.append(
            f"overlap: {share.median:.0%} of the exchange that computing could hide stays exposed ({words}; "
            f"{len(points)} points)"
        )
    return lines


def _throughputs(report: Report, options: argparse.Namespace) -> Iterator[str]:
    """What the images/s of several sizes tell of software and bandwidth, beside what is assumed of them."""
    if len({row.gpus for row in report.good_rows()}) < 2:
        return
    run = _run(options)
    if len(run.rates) < 2:
        return
    sizes = ", ".join(str(gpus) for gpus, _ in run.rates)
    for name, (before, after) in run.learned().items():
        low, middle, high = np.quantile(after, [0.05, 0.5, 0.95])
        least, _, most = np.quantile(before, [0.05, 0.5, 0.95])
        yield (
            f"{name}, by images/s of {sizes} GPUs: {middle:.1%} ({low:.1%} to {high:.1%}; assumed "
            f"{least:.1%} to {most:.1%})"
        )


def _link(name: str, link: FittedLink, source: str) -> list[str]:
    return [
        f"{name}: latency {link.latency_s.format('us a message', 1e6)}",
        f"{name}: bandwidth {link.bandwidth.format('MB/s', 1e-6)}",
        f"{name}: {source}, the worst {link.worst_residual:.1%} off",
    ]


def _jitter(report: Report) -> list[str]:
    times = step_times(report)
    if times is None:
        return []
    number = len(times.relative)
    # Of a standard deviation: 1 / sqrt(2 (n - 1)).
    steps = Fitted(value=times.step_spread, relative_error=1 / math.sqrt(2 * (number - 1)))
    lines = [
        f"jitter step by step: {steps.format('% of a step', 100)} ({number} steps)",
        _between_ranks(times),
    ]
    rng = np.random.default_rng(0)
    slowest = Slowest(times, Assumptions().jitter.draw(rng, 2000), rng)
    for ranks in (8, 64, 256):
        low, middle, high = np.quantile(slowest(ranks) - 1, [0.05, 0.5, 0.95])
        beyond = ", past what was seen" if ranks > number else ""
        lines.append(
            f"slowest of {ranks} ranks: {middle:.1%} over the median rank ({low:.1%} to {high:.1%}{beyond})"
        )
    return lines


def _between_ranks(times: StepTimes) -> str:
    known = len(times.ranks)
    if times.rank_spread is None:
        return "jitter between ranks: not determined by one rank; the assumed spread of equal GPUs is used"
    fitted = Fitted(value=times.rank_spread, relative_error=1 / math.sqrt(2 * (known - 1)))
    return f"jitter between ranks: {fitted.format('% of a step', 100)} ({known} ranks)"
