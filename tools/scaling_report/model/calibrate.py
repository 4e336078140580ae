"""Latency, bandwidth and overlap from measurements, and how well these determine each.

A sweep of all-reduces is fitted by seconds = messages x latency + share x bytes / bandwidth, with the
coefficients of the ring (model/comm.py). Residuals are relative and large ones count little (soft L1): one
timing that met other traffic, or a message that fitted into a switch's buffer, must not bend the line.

A point with exchange took `exposed` seconds longer than without. Backward hides the rest
(model/comm.py, `exposed_s`), so latency and bandwidth follow from several such points; and
where a sweep has told these, the points tell how much is hidden in truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from ..report import Collective, ReportError, Row
from .assumptions import Assumptions, Spread
from .comm import Algorithm, Buckets, Cost, coefficients, exchange_s, exposed_s
from .presets import Link
from .topology import Topology


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A positive value and its relative standard error; `determined` if that is under a half."""

    value: float
    relative_error: float

    @property
    def determined(self) -> bool:
        return self.relative_error < 0.5

    def format(self, unit: str, scale: float = 1.0) -> str:
        if not self.determined:
            return "not determined by these points"
        value = self.value * scale
        return f"{f'{value:,.0f}' if value >= 1000 else f'{value:.4g}'} {unit}, +- {self.relative_error:.1%}"


@dataclass(frozen=True, kw_only=True)
class FittedLink:
    latency_s: Fitted
    s_per_byte: Fitted
    worst_residual: float  # relative, as |log(fitted / measured)|

    @property
    def bandwidth(self) -> Fitted:
        """Bytes a second."""
        return Fitted(value=1 / self.s_per_byte.value, relative_error=self.s_per_byte.relative_error)


def fit_link(points: Sequence[Collective]) -> FittedLink:
    """Fit one kind of link to all-reduces over it, one rank a node (or all on one node)."""
    if len(points) < 3 or len({point.num_bytes for point in points}) < 2:
        raise ReportError(
            f"{len(points)} all-reduce timings cannot fix latency and bandwidth: measure at least 3, of 2 "
            "or more sizes"
        )
    seconds = np.log([point.seconds for point in points])
    terms = np.array([_terms(point) for point in points])

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


def _terms(point: Collective) -> tuple[float, float]:
    """A ring between nodes goes through all their GPUs."""
    ranks = point.nodes if point.nodes > 1 else point.gpus
    messages, _ = coefficients(ranks, algorithm="ring")
    _, share = coefficients(point.gpus, algorithm="ring")
    return messages, share * point.num_bytes


def measured_algorithm(topology: Topology) -> Algorithm:
    """What timings on this cluster are explained by: gloo's and NCCL's ring where a node has one rank."""
    return "ring" if topology.gpus_per_node == 1 else "auto"


# A median over tens of steps is hardly known better than this, however well the points agree.
LEAST_SCATTER = 0.01


def usable(rows: Sequence[Row]) -> list[Row]:
    """Points over several nodes that tell about the network: measured with and without exchange,
    unsharded.
    """
    return [
        row
        for row in rows
        if row.nodes > 1
        and row.status == "ok"
        and not row.zero_stage
        and row.compute_s
        and row.step_p50_s
        and row.exposed_communication_s
    ]


def exchange_bounds(row: Row, buckets: Buckets, topology: Topology, *, between: Cost) -> tuple[float, float]:
    """Seconds of exchange in a step of `row` that computing cannot hide, and in all."""
    filled, algorithm = buckets.accumulated(row.accumulation or 1), measured_algorithm(topology)
    inside = Cost(np.array([topology.inside.latency_s]), np.array([1 / topology.inside.bytes_per_s]))
    costs = [
        np.add(*exchange_s(size, row.gpus, topology, inside=inside, between=between, algorithm=algorithm))
        for size in filled.num_bytes
    ]
    at_least = exposed_s(np.array([row.compute_s or 0.0]), filled.ready, costs)
    return float(at_least[0]), float(np.sum(costs))


def link_from_steps(rows: Sequence[Row], buckets: Buckets, topology: Topology) -> FittedLink:
    """Latency and bandwidth between nodes for which the points take as long as they did. Raises ReportError
    without a point.
    """
    points = usable(rows)
    if not points:
        raise ReportError("no point over several nodes was measured with and without exchange")
    unhidden = Assumptions().unhidden.median

    def residuals(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        between = Cost(*(np.array([value]) for value in np.exp(logarithms)))
        off = []
        for row in points:
            assert row.step_p50_s and row.exposed_communication_s
            at_least, total = exchange_bounds(row, buckets, topology, between=between)
            alone = row.step_p50_s - row.exposed_communication_s
            off.append(np.log((alone + at_least + unhidden * (total - at_least)) / row.step_p50_s))
        return np.array(off)

    found = least_squares(residuals, np.log([1e-4, 1e-9]), bounds=([-20, -30], [0, -10]))
    left = residuals(found.x)
    freedom = max(1, len(points) - 2)
    scatter = max(float(np.sqrt(np.sum(left**2) / freedom)), LEAST_SCATTER)
    errors = relative_errors(found.jac, scatter=scatter)
    latency, per_byte = (
        Fitted(value=float(np.exp(value)), relative_error=error)
        for value, error in zip(found.x, errors, strict=True)
    )
    return FittedLink(latency_s=latency, s_per_byte=per_byte, worst_residual=float(np.max(np.abs(left))))


def unhidden_share(rows: Sequence[Row], buckets: Buckets, topology: Topology, link: Link) -> Spread | None:
    """The share of the hideable exchange that stayed exposed, slow-down of computing included; None if no
    point tells.

    Between the points, and half and double of their median: one point more could lie there.
    """
    between = Cost(np.array([link.latency_s]), np.array([1 / link.bytes_per_s]))
    shares = []
    for row in usable(rows):
        at_least, total = exchange_bounds(row, buckets, topology, between=between)
        if total > 1.05 * at_least:
            shares.append(
                min(1.0, max(0.005, ((row.exposed_communication_s or 0.0) - at_least) / (total - at_least)))
            )
    if not shares:
        return None
    middle = float(np.median(shares))
    return Spread(middle, min(*shares, middle / 2), max(*shares, middle * 2))
