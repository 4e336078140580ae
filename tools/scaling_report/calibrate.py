"""What the step times of measured points say about the network and about overlap, where no all-reduce was
timed or beside it.

A point with exchange took `exposed` seconds longer than without. Backward hides the rest
(tools.scaling_report.comm_model.exposed_s), so latency and bandwidth follow from several such points; and
where a sweep has told these, the points tell how much is hidden in truth.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from tools.scaling_report.comm_model import Buckets, Cost, exchange_s, exposed_s
from tools.scaling_report.links import Fitted, FittedLink, relative_errors
from tools.scaling_report.report import ReportError, Row
from tools.scaling_report.step_model import Assumptions, Spread
from tools.scaling_report.topology import Link, Topology

# A median over tens of steps is hardly known better than this, however well the points agree.
LEAST_SCATTER = 0.01


def usable(rows: Sequence[Row]) -> list[Row]:
    """Points over several nodes that tell about the network: measured with and without exchange, unsharded."""
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
    filled = buckets.accumulated(row.accumulation or 1)
    inside = Cost(np.array([topology.inside.latency_s]), np.array([1 / topology.inside.bytes_per_s]))
    costs = [
        np.add(*exchange_s(size, row.gpus, topology, inside=inside, between=between, algorithm="ring"))
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
