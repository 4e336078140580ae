"""A prediction that starts from a measured run: its throughput, its gradients, its jitter, and its all-reduce sweep or a named network."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbtrain.cluster.comm_model import Buckets
from lbtrain.cluster.step_model import Assumptions, Job, Prediction, Spread, StepModel
from lbtrain.cluster.topology import NETWORKS, NODE_LINKS, Link, Topology, preset
from tools.scaling_report.fit import FittedLink, fit_link
from tools.scaling_report.report import Collective, Report, ReportError, Row, load
from tools.scaling_report.what_if import WhatIf


@dataclass(frozen=True)
class MeasuredRun:
    row: Row
    job: Job
    topology: Topology
    assumptions: Assumptions
    network: str

    @staticmethod
    def read(path: Path, *, network: str | None, links: int) -> "MeasuredRun":
        """Use the largest single-node row of the report at `path`. Its sweep describes the links, unless `network` names a preset."""
        report = load(path)
        row = _starting_row(report, path)
        assumptions = Assumptions()
        if row.jitter:
            assumptions = dataclasses.replace(assumptions, jitter=_near(row.jitter, 1.3), jitter_lasts=False, measurement=0.005)
        inside, between = NODE_LINKS["nvlink2"], preset(network, NETWORKS) if network else None
        sweep = [point for point in report.collectives if point.nodes > 1]
        if between is None:
            between, assumptions = _fitted(sweep, path, assumptions)
        local = [point for point in report.collectives if point.nodes == 1 and point.gpus > 1]
        if len(local) >= 3:
            inside = _link(fit_link(local))
        per_node = row.gpus // row.nodes
        job = _job(report, row, path)
        return MeasuredRun(row, job, Topology(per_node, inside, between, links), assumptions, network or "the measured sweep")

    @property
    def step_s(self) -> float:
        assert self.row.images_per_s
        return self.job.images * self.row.gpus / self.row.images_per_s

    def answer(self, sizes: Sequence[int], *, what_if: WhatIf) -> list[Prediction]:
        measured = StepModel(self.job, self.topology, assumptions=self.assumptions, algorithm="ring")
        job, topology = what_if.job(self.job, dtype="fp32"), what_if.topology(self.topology)
        changed = StepModel(job, topology, assumptions=self.assumptions, algorithm="ring")
        return changed.predict(sizes, calibrated=measured, measured_step_s=self.step_s, measured_on=self.row.gpus)

    def asked(self) -> dict[str, Any]:
        return {
            "images_per_sec": self.row.images_per_s,
            "measured_on": self.row.gpus,
            "micro_batch": self.job.images,
            "network": self.network,
        }


def _starting_row(report: Report, path: Path) -> Row:
    rows = [row for row in report.good_rows() if row.nodes == 1 and row.per_gpu_batch]
    if not rows:
        raise ReportError(f"{path} has no successful single-node row to start from: measure one node first")
    return max(rows, key=lambda row: (row.gpus, row.data == "synthetic"))


def _fitted(sweep: list[Collective], path: Path, assumptions: Assumptions) -> tuple[Link, Assumptions]:
    if not sweep:
        raise ReportError(f"{path} has no all-reduce sweep between nodes: measure with --collectives, or name the network with --network")
    fitted = fit_link(sweep)
    # What the sweep measured includes every protocol overhead, so nothing is left of the data sheet's uncertainty but the fit's.
    known = max(1.02, 1 + 2 * fitted.s_per_byte.relative_error)
    return _link(fitted), dataclasses.replace(
        assumptions, bandwidth_share=Spread(0.9999, 0.9999 / known, 1.0), latency_factor=_near(1.0, 1.5)
    )


def _link(fitted: FittedLink) -> Link:
    return Link(1 / fitted.s_per_byte.value, max(fitted.latency_s.value, 0.0), "all-reduce sweep")


def _near(value: float, factor: float) -> Spread:
    return Spread(value, value / factor, value * factor)


def _job(report: Report, row: Row, path: Path) -> Job:
    buckets = report.provenance.get("buckets")
    if not buckets or row.per_gpu_batch is None:
        raise ReportError(f"{path} lacks the gradient buckets that `measure` records: measure again")
    return Job(
        buckets=Buckets(tuple(buckets["num_bytes"]), tuple(buckets["ready"])),
        images=row.per_gpu_batch * (row.accumulation or 1),
        optimizer_s=row.optimizer_s or 0.0,
    )
