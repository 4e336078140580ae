"""Latency and bandwidth of a link from timings over it, and how well these determine each.

A sweep of all-reduces is fitted by seconds = messages x latency + share x bytes / bandwidth, with the
coefficients of the ring (tools.scaling_report.comm_model). Residuals are relative and large ones count little
(soft L1): one timing that met other traffic, or a message that fitted into a switch's buffer, must not bend
the line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from tools.scaling_report.comm_model import Algorithm, coefficients
from tools.scaling_report.report import Collective, ReportError


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A positive value and its relative standard error; `determined` if that is under a half."""

    value: float
    relative_error: float

    @property
    def determined(self) -> bool:
        return self.relative_error < 0.5

    def words(self, unit: str, scale: float = 1.0) -> str:
        if not self.determined:
            return "not determined by these points"
        return f"{self.value * scale:.4g} {unit}, +- {self.relative_error:.1%}"


@dataclass(frozen=True, kw_only=True)
class FittedLink:
    latency_s: Fitted
    s_per_byte: Fitted
    worst_residual: float  # relative, as |log(fitted / measured)|

    @property
    def bandwidth(self) -> Fitted:
        """Bytes a second."""
        return Fitted(value=1 / self.s_per_byte.value, relative_error=self.s_per_byte.relative_error)


def fit_link(points: Sequence[Collective], *, algorithm: Algorithm = "ring") -> FittedLink:
    """Fit one kind of link to all-reduces over it, one rank a node (or all on one node)."""
    if len(points) < 3 or len({point.num_bytes for point in points}) < 2:
        raise ReportError(
            f"{len(points)} all-reduce timings cannot fix latency and bandwidth: measure at least 3, of 2 "
            "or more sizes"
        )
    seconds = np.log([point.seconds for point in points])
    terms = np.array([_terms(point, algorithm) for point in points])

    def residuals(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.log(terms @ np.exp(logarithms)) - seconds

    large = max(points, key=lambda point: point.num_bytes)
    start = np.log([min(point.seconds for point in points) / 2, large.seconds / large.num_bytes])
    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.05, bounds=([-25, -35], [2, 0]))
    # The scatter is taken from the median residual, which outliers do not move.
    scatter = max(1.4826 * float(np.median(np.abs(residuals(found.x)))), 1e-4)
    errors = relative_errors(found.jac, scatter=scatter)
    latency, per_byte = np.exp(found.x)
    return FittedLink(
        latency_s=Fitted(value=float(latency), relative_error=errors[0]),
        s_per_byte=Fitted(value=float(per_byte), relative_error=errors[1]),
        worst_residual=float(np.max(np.abs(residuals(found.x)))),
    )


def relative_errors(jacobian: npt.NDArray[np.float64], *, scatter: float) -> tuple[float, float]:
    """Standard errors of the two logarithms, from residuals that scatter by `scatter`.

    Each is known to a factor of ten before anything is measured, so that a value which the points do not see
    has a finite, large error.
    """
    before = np.eye(2) / math.log(10) ** 2
    covariance = np.linalg.inv(jacobian.T @ jacobian / scatter**2 + before)
    return float(np.sqrt(covariance[0, 0])), float(np.sqrt(covariance[1, 1]))


def _terms(point: Collective, algorithm: Algorithm) -> tuple[float, float]:
    ranks = point.nodes if point.nodes > 1 else point.gpus
    messages, share = coefficients(ranks, algorithm=algorithm)
    return messages, share * point.num_bytes
