"""A prediction that starts from a measured run: its throughput, its gradients, its jitter, and its all-reduce
sweep or a named network.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..report import Collective, Report, ReportError, Row, load
from .assumptions import Assumptions, Spread
from .baseline import Baseline
from .calibrate import FittedLink, fit_link, link_from_steps, measured_algorithm, unhidden_share, usable
from .comm import Buckets
from .jitter import StepTimes
from .layers import BYTES, VALUE_BYTES, count_model, of_model
from .presets import GPUS, NETWORKS, NODE_LINKS, USUAL_HEADROOM, Link, find, preset
from .step import Job
from .topology import Topology

_ASK = "`predict --what-if` asks about another job"


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a report may leave open; another value than it states is rejected. `network` alone may be another
    one than the report measured.
    """

    network: str | None = None
    links: int = 1
    gpus_per_node: int | None = None
    model: str | None = None
    gpu: str | None = None
    dtype: str | None = None
    micro_batch: int | None = None
    gradient_bytes: float = 4  # of an exchanged value; above 8, of all gradients of the model


def read_baseline(path: Path, named: Named) -> Baseline:
    """From the rows of the report at `path`, the largest single-node one first (the smallest one, if all ran
    on several nodes); the links are its sweep's or those of `named`.

    Raises ReportError where the report does not tell enough, or something else than `named`.
    """
    report = load(path, gpus_per_node=named.gpus_per_node)
    gpu, network = gpu_of(report) or named.gpu, named.network
    report.rows = [
        dataclasses.replace(
            each,
            per_gpu_batch=each.per_gpu_batch or named.micro_batch,
            precision=each.precision or named.dtype,
        )
        for each in report.rows
    ]
    row = _starting_row(report, path)
    _check(row, gpu, named, path)
    local = [point for point in report.collectives if point.nodes == 1 and point.gpus > 1]
    inside = (
        _link(fit_link(local)) if len(local) >= 3 else NODE_LINKS[GPUS[gpu].node_link if gpu else "nvlink2"]
    )
    between = preset(network or "eth-10", NETWORKS)
    topology = Topology(
        _node_size(report, named, path),
        inside,
        between,
        named.links,
        boost_headroom=GPUS[gpu].boost_headroom if gpu else USUAL_HEADROOM,
    )
    # Rows over a network that was measured say nothing of one that is named.
    another = network and (usable(report.rows) or any(each.nodes > 1 for each in report.collectives))
    baseline = Baseline(
        job=_job(report, row, path, gpu, named),
        topology=topology,
        rates=_rates(row, [row] if another else report.good_rows()),
        gpu=gpu,
        network=network or "",
        algorithm=measured_algorithm(topology),
        assumptions=Assumptions(step_times=step_times(report), measurement=0.005),
    )
    return baseline if network else _with_measured_network(baseline, report, path)


def _check(row: Row, gpu: str | None, named: Named, path: Path) -> None:
    """Raises ReportError where the run's precision is not known, or `named` contradicts it."""
    if row.precision not in (None, *BYTES):
        raise ReportError(
            f"{path}: the precision {row.precision!r} is not one of {', '.join(BYTES)}: write there what was "
            "computed in"
        )
    stated = {"micro_batch": row.per_gpu_batch, "dtype": row.precision, "gpu": gpu}
    for name, value in stated.items():
        if getattr(named, name) not in (None, value):
            flag = f"--{name.replace('_', '-')}"
            raise ReportError(f"{path} was measured with {flag} {value}: leave it out; {_ASK}")


def _with_measured_network(named: Baseline, report: Report, path: Path) -> Baseline:
    """`named` with the network, and the overlap, that the report's own timings show."""
    fitted, source = _fitted(report, named.job, named.topology, path)
    if named.topology.links > 1:
        raise ReportError(
            f"the network of {path} was timed through all ports of a node: leave out --links, or name "
            "another with --network"
        )
    topology = dataclasses.replace(named.topology, between=_link(fitted))
    # What was measured includes every protocol overhead: nothing is left of the data sheet's uncertainty but
    # the fit's.
    known = max(1.02, 1 + 2 * min(fitted.s_per_byte.relative_error, 1.0))
    assert named.assumptions
    assumptions = dataclasses.replace(
        named.assumptions, bandwidth_share=Spread(0.9999, 0.9999 / known, 1.0), latency_factor=_near(1.0, 1.5)
    )
    sweep = report.collectives
    share = unhidden_share(report.rows, named.job.buckets, topology, topology.between) if sweep else None
    if share:
        # It was measured with the slow-down of computing in it.
        slowdown = Spread(1e-3, 1e-4, 1e-2)
        assumptions = dataclasses.replace(assumptions, unhidden=share, overlap_slowdown=slowdown)
    return dataclasses.replace(named, topology=topology, assumptions=assumptions, network=source)


def step_times(report: Report) -> StepTimes | None:
    """Of all ranks that ran without exchange; a rank is a place on a host."""
    runs = [
        (f"{each.host}/{each.rank % max(1, _per_node(report))}", each.own_s)
        for each in report.own_times
        if len(each.own_s) > 1
    ]
    return StepTimes.of(runs) if runs else None


def _per_node(report: Report) -> int:
    """The most GPUs of a node that took part in anything."""
    return max((each.gpus // each.nodes for each in _points(report)), default=1)


def _points(report: Report) -> list[Row | Collective]:
    return [*report.rows, *report.collectives]


def _node_size(report: Report, named: Named, path: Path) -> int:
    """GPUs of a node: what a point over several nodes shows, or else what is named or was given to `ingest`.
    Points on one node alone may have left some of its GPUs idle.
    """
    shown, size = _per_node(report), named.gpus_per_node
    several = any(each.nodes > 1 for each in _points(report))
    if size and (size < shown or (several and size != shown)):
        raise ReportError(
            f"{path} was measured on nodes of {shown} GPUs, not of {size}: leave out --gpus-per-node"
        )
    return shown if several else size or max(shown, report.provenance.get("gpus_per_node", shown))


def _device(report: Report) -> str:
    return str(report.provenance.get("device") or "")


def gpu_of(report: Report) -> str | None:
    """The preset of the GPU that was measured on, by its driver's name."""
    return find(_device(report), GPUS)


def _starting_row(report: Report, path: Path) -> Row:
    rows = report.good_rows()
    if not rows:
        raise ReportError(f"{path} has no row with images/s to start from: measure first")
    if not (rows := [row for row in rows if row.per_gpu_batch]):
        raise ReportError(f"{path} does not say how many images a GPU takes: name them with --micro-batch")
    one_node = [row for row in rows if row.nodes == 1]
    fewest = min(row.gpus for row in rows)
    few = one_node or [row for row in rows if row.gpus == fewest]
    return max(few, key=lambda row: (row.gpus, row.data == "synthetic"))


def _rates(start: Row, rows: Sequence[Row]) -> tuple[tuple[int, float], ...]:
    """Throughput by size of the starting row's job, under weak scaling; of a size that was measured on
    several numbers of nodes, that on the fewest.
    """
    larger = [each for each in rows if each.kind == start.kind and each.gpus > start.gpus]
    found: dict[int, float] = {}
    if start.mode == "weak":
        for each in sorted(larger, key=lambda row: row.nodes):
            found.setdefault(each.gpus, each.images_per_s or 0.0)
    return ((start.gpus, start.images_per_s or 0.0), *found.items())


def _fitted(report: Report, job: Job, topology: Topology, path: Path) -> tuple[FittedLink, str]:
    sweep = [point for point in report.collectives if point.nodes > 1]
    if sweep:
        return fit_link(sweep), "the measured sweep"
    if usable(report.rows):
        return link_from_steps(report.rows, job.buckets, topology), "the measured step times"
    raise ReportError(
        f"{path} has no point over several nodes and no all-reduce sweep: measure with --collectives, or "
        "name the network with --network"
    )


def _link(fitted: FittedLink) -> Link:
    return Link(1 / fitted.s_per_byte.value, max(fitted.latency_s.value, 0.0), "all-reduce sweep")


def _near(value: float, factor: float) -> Spread:
    return Spread(value, value / factor, value * factor)


def _job(report: Report, row: Row, path: Path, gpu: str | None, named: Named) -> Job:
    precision = row.precision or "fp32"
    return Job(
        images=row.per_gpu_batch or 1,
        accumulation=row.accumulation or 1,
        zero_stage=row.zero_stage or 0,
        optimizer_s=(row.optimizer_s or 0.0) * (row.gpus if row.zero_stage else 1),
        peak_tflops=GPUS[gpu].tflops.get(precision) if gpu else None,
        value_bytes=BYTES[precision],
        half=BYTES[precision] == 2 and (precision in GPUS[gpu].tflops if gpu else not _device(report)),
        **_of_model(report, path, named),
    )


def _of_model(report: Report, path: Path, named: Named) -> dict[str, Any]:
    """What a job takes from its model; of gradients that were measured only their buckets are known."""
    size, trained = named.gradient_bytes, report.provenance.get("model")
    model = named.model or trained
    if known := report.provenance.get("buckets"):
        if size != 4 or named.model:
            flag = "--model" if named.model else "--gradient-bytes"
            raise ReportError(f"{path} has measured its gradients: leave out {flag}; {_ASK}")
        return {"buckets": Buckets(tuple(known["num_bytes"]), tuple(known["ready"]))}
    if trained and named.model and count_model(trained) != count_model(named.model):
        raise ReportError(f"{path} says that {trained} was trained, not {model}: leave out --model")
    if model or size > VALUE_BYTES:
        return of_model(model, size)
    raise ReportError(
        f"{path} does not say what was trained: name it with --model, or its gradients with "
        "--gradient-bytes 178MB"
    )
