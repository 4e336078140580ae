"""Latency, bandwidth and jitter from measured points, and how well the points determine each.

A sweep of all-reduces is fitted by seconds = messages x latency + share x bytes / bandwidth, with the coefficients of the ring
(lbtrain.cluster.comm_model). Residuals are relative and large ones count little (soft L1): one timing that met other traffic, or a message
that fitted into a switch's buffer, must not bend the line.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from lbtrain.cluster.comm_model import Algorithm, coefficients
from tools.scaling_report.report import Collective, ReportError, load

HELP = "latency, bandwidth and jitter from measured points, and how well these determine them"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A positive value and its relative standard error; `determined` if that is under a half."""

    value: float
    relative_error: float

    @property
    def determined(self) -> bool:
        return self.relative_error < 0.5

    def words(self, unit: str, scale: float = 1.0) -> str:
        value = f"{self.value * scale:.4g} {unit}"
        if not self.determined:
            return f"not determined by these points (best value {value})"
        return f"{value}, +- {self.relative_error:.1%}"


@dataclass(frozen=True, kw_only=True)
class FittedLink:
    latency_s: Fitted
    s_per_byte: Fitted
    worst_residual: float  # relative, as |log(fitted / measured)|


def fit_link(points: Sequence[Collective], *, algorithm: Algorithm = "ring") -> FittedLink:
    """Fit one kind of link to all-reduces over it, one rank a node (or all on one node)."""
    if len(points) < 3 or len({point.num_bytes for point in points}) < 2:
        raise ReportError(f"{len(points)} all-reduce timings cannot fix latency and bandwidth: measure at least 3, of 2 or more sizes")
    seconds = np.log([point.seconds for point in points])
    terms = np.array([_terms(point, algorithm) for point in points])

    def residuals(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.log(terms @ np.exp(logarithms)) - seconds

    large = max(points, key=lambda point: point.num_bytes)
    start = np.log([min(point.seconds for point in points) / 2, large.seconds / large.num_bytes])
    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.05, bounds=([-25, -35], [2, 0]))
    errors = _relative_errors(found.jac, residuals(found.x))
    latency, per_byte = np.exp(found.x)
    return FittedLink(
        latency_s=Fitted(value=float(latency), relative_error=errors[0]),
        s_per_byte=Fitted(value=float(per_byte), relative_error=errors[1]),
        worst_residual=float(np.max(np.abs(residuals(found.x)))),
    )


def _relative_errors(jacobian: npt.NDArray[np.float64], residual: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Standard errors of the two logarithms; the scatter is taken from the median residual, which outliers do not move."""
    scatter = max(1.4826 * float(np.median(np.abs(residual))), 1e-4)
    covariance = scatter**2 * np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12)
    # A value that the points do not see at all has no column to speak of, and pinv would call it certain.
    seen = np.linalg.norm(jacobian, axis=0) > 1e-3
    first, second = (float(np.sqrt(covariance[i, i])) if seen[i] else math.inf for i in range(2))
    return first, second


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
        mean = statistics.fmean(jitters)
        error = statistics.stdev(jitters) / len(jitters) ** 0.5 / mean if len(jitters) > 1 and mean else math.inf
        print(f"jitter: {Fitted(value=mean, relative_error=error).words('% of a step', 100)} ({len(jitters)} configurations)")
    return 0


def _print_link(name: str, points: Sequence[Collective]) -> None:
    link = fit_link(points)
    bandwidth = Fitted(value=1 / link.s_per_byte.value, relative_error=link.s_per_byte.relative_error)
    print(f"{name}: latency {link.latency_s.words('us a message', 1e6)}")
    print(f"{name}: bandwidth {bandwidth.words('MB/s', 1e-6)}")
    print(f"{name}: {len(points)} points, the worst {link.worst_residual:.1%} off the line")
