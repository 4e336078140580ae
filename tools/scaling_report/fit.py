"""Latency, bandwidth and jitter from measured points, and how well the points determine each.

From a sweep of all-reduces the fit is linear: seconds = messages x latency + share x bytes / bandwidth, with the coefficients of the ring
(lbtrain.cluster.comm_model); each point is weighted by its own size, since timing errors are relative.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbtrain.cluster.comm_model import Algorithm, coefficients
from tools.scaling_report.report import Collective, ReportError, load

HELP = "latency, bandwidth and jitter from measured points, and how well these determine them"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A value and its standard error; `determined` if the error is under half the value."""

    value: float
    error: float

    @property
    def determined(self) -> bool:
        return self.error < abs(self.value) / 2 and self.value > 0

    def words(self, unit: str, scale: float = 1.0) -> str:
        if not self.determined:
            return f"not determined by these points (estimate {self.value * scale:.3g} {unit}, standard error {self.error * scale:.2g})"
        return f"{self.value * scale:.4g} {unit}, standard error {self.error * scale:.2g}"


@dataclass(frozen=True, kw_only=True)
class FittedLink:
    latency_s: Fitted
    s_per_byte: Fitted
    worst_residual: float  # relative


def fit_link(points: Sequence[Collective], *, algorithm: Algorithm = "ring") -> FittedLink:
    """Fit one kind of link to all-reduces over it, one rank a node (or all on one node)."""
    if len(points) < 3 or len({point.num_bytes for point in points}) < 2:
        raise ReportError(f"{len(points)} all-reduce timings cannot fix latency and bandwidth: measure at least 3, of 2 or more sizes")
    seconds = np.array([point.seconds for point in points])
    design = np.array([_terms(point, algorithm) for point in points]) / seconds[:, None]
    solution, *_ = np.linalg.lstsq(design, np.ones(len(points)))
    residual = design @ solution - 1
    variance = float(residual @ residual) / max(len(points) - 2, 1)
    errors = np.sqrt(np.diag(variance * np.linalg.inv(design.T @ design)))
    return FittedLink(
        latency_s=Fitted(value=float(solution[0]), error=float(errors[0])),
        s_per_byte=Fitted(value=float(solution[1]), error=float(errors[1])),
        worst_residual=float(np.max(np.abs(residual))),
    )


def _terms(point: Collective, algorithm: Algorithm) -> tuple[float, float]:
    ranks = point.nodes if point.nodes > 1 else point.gpus
    messages, share = coefficients(ranks, algorithm=algorithm)
    return messages, share * point.num_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", type=Path, help="a report with all-reduce timings (measure --collectives)")


def run(options: argparse.Namespace) -> int:
    report = load(options.report)
    between = [point for point in report.collectives if point.nodes > 1]
    inside = [point for point in report.collectives if point.nodes == 1 and point.gpus > 1]
    jitters = [row.jitter for row in report.good_rows() if row.jitter is not None]
    if not (between or inside or jitters):
        raise ReportError(f"{options.report} holds nothing to fit: run measure with --collectives")
    for name, points in (("between nodes", between), ("inside a node", inside)):
        if points:
            _print_link(name, points)
    if jitters:
        error = statistics.stdev(jitters) / len(jitters) ** 0.5 if len(jitters) > 1 else float("inf")
        print(f"jitter: {Fitted(value=statistics.fmean(jitters), error=error).words('% of a step', 100)} ({len(jitters)} configurations)")
    return 0


def _print_link(name: str, points: Sequence[Collective]) -> None:
    link = fit_link(points)
    rate = 1 / link.s_per_byte.value
    bandwidth = Fitted(value=rate, error=rate * link.s_per_byte.error / link.s_per_byte.value)
    print(f"{name}: latency {link.latency_s.words('us a message', 1e6)}")
    print(f"{name}: bandwidth {bandwidth.words('MB/s', 1e-6)}")
    print(f"{name}: {len(points)} points, the worst {link.worst_residual:.1%} off the line")
