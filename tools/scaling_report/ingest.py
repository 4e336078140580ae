"""A report from what exists already: training logs, tables of nccl-tests, traces of torch's profiler.

Each file is given with the number of GPUs that wrote it; what it is, is seen from its content.

logs
%s
nccl-tests     the table of all_reduce_perf: `fit` and `predict --run` take latency and bandwidth from it
profiler       a Kineto trace (JSON, .json.gz) of one rank with ProfilerStep marks: exposed exchange, overlap
               and data wait of every step; --per-gpu-batch makes images/s of it

The first tenth of a log's values (at least one) is warm-up and left out. A log with two readings is rejected,
and both are named.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from ..kit.tables import Table
from . import arguments
from .formats import logs, traces
from .formats.sections import doubts
from .report import (
    Report,
    ReportError,
    Row,
    block_means,
    check_out,
    check_points,
    rate_columns,
    with_efficiency,
)

__doc__ = __doc__ % (logs.__doc__ or "").partition("\n\n")[2].rstrip()

EXAMPLES = """\
one log a cluster size, given as GPUs=FILE:
  ingest 8=logs/8.txt 64=logs/64.txt --gpus-per-node 8 --per-gpu-batch 32 --out report.json
an all-reduce sweep beside it, for `fit` and `predict --run`:
  ingest 8=logs/8.txt 16=all_reduce_perf.txt --model resnet50 --per-gpu-batch 128 --out report.json
where a step's time goes:
  ingest 16=trace_rank0.json.gz --per-gpu-batch 128 --out report.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("files", nargs="+", type=_file, metavar="GPUS=FILE", help="what GPUS GPUs wrote")
    add("--gpus-per-node", type=arguments.count, default=8, help="default 8")
    add("--per-gpu-batch", type=arguments.count, help="images a GPU and step; left open if not given")
    add(
        "--per",
        choices=("total", "gpu", "process"),
        help="what the values of the logs are of, where a log leaves it open",
    )
    add("--model", help="what was trained: `predict --run` then knows its gradients")
    add("--out", type=Path, required=True, help="the report to write")


def _file(text: str) -> tuple[int, Path]:
    gpus, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write the number of GPUs before the file, as 8={text}")
    return arguments.count(gpus), Path(path)


def run(options: argparse.Namespace) -> int:
    check_out(options.out, [path for _, path in options.files])
    files = [str(path) for _, path in options.files]
    report = Report(provenance={"ingested": files, "gpus_per_node": options.gpus_per_node})
    if options.model:
        report.provenance["model"] = options.model
    for gpus, path in options.files:
        try:
            _add(report, gpus, path, options)
        except OSError as error:
            raise ReportError(f"{path} cannot be read ({error.strerror or error})") from None
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None
    check_points(report.rows, " and ".join(files))
    report.rows = with_efficiency(report.rows)
    report.save(options.out)
    print(
        f"{len(report.rows)} rows and {len(report.collectives)} all-reduce timings in {options.out}; "
        f"`render {options.out} --out FOLDER` shows them"
    )
    return 0


def _add(report: Report, gpus: int, path: Path, options: argparse.Namespace) -> None:
    if traces.is_trace(path):
        steps, ranks = traces.read_trace(path)
        if ranks not in (None, gpus):
            raise ReportError(f"the trace says that there were {ranks} ranks, not {gpus}: write {ranks}=FILE")
        report.rows.append(profiled_row(steps, _row(gpus, options)))
        report.provenance[f"steps of {path.name}"] = [dataclasses.asdict(step) for step in steps]
        print(_step_table(path.name, steps).text())
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if traces.is_nccl_table(text):
        report.collectives += traces.read_nccl_table(text, gpus=gpus, gpus_per_node=options.gpus_per_node)
        return
    rates = logs.job_rates(text.splitlines(), gpus=gpus, per=options.per)
    for doubt in doubts(rates):
        print(f"note: {path}: {doubt}")
    report.rows.append(row_from(rates, _row(gpus, options)))


def _row(gpus: int, options: argparse.Namespace) -> Row:
    images = options.per_gpu_batch
    nodes, batch = max(1, -(-gpus // options.gpus_per_node)), images and images * gpus
    return Row(gpus=gpus, nodes=nodes, data="log", per_gpu_batch=images, global_batch=batch)


def row_from(rates: Sequence[float], row: Row) -> Row:
    """`row` with the mean over time of a log's images/s: of intervals of equally many images, or, where there
    are stalls (0), of equally long ones.
    """
    if not all(rates):
        columns = rate_columns(statistics.fmean(rates), list(block_means(rates)), row.gpus)
    else:
        times = [1 / rate for rate in rates]
        columns = rate_columns(1 / statistics.fmean(times), list(block_means(times)), row.gpus)
    return dataclasses.replace(row, **columns)


def profiled_row(steps: Sequence[traces.ProfiledStep], row: Row) -> Row:
    """`row` with images over time and the medians of the profiled steps; one rank's, which stands for all."""

    def median(name: str) -> float:
        return statistics.median(getattr(step, name) for step in steps)

    batch, seconds = row.global_batch, [step.seconds for step in steps]
    rates = rate_columns(batch / statistics.fmean(seconds), seconds, row.gpus) if batch else {}
    return dataclasses.replace(
        row,
        **rates,
        step_p50_s=median("seconds"),
        compute_s=median("compute"),
        loader_wait_s=median("data"),
        exposed_communication_s=median("exposed"),
    )


def _step_table(title: str, steps: Sequence[traces.ProfiledStep]) -> Table:
    head = ("step", "ms", "compute", "exchange", "exposed", "overlap", "data wait")
    rows = []
    for step in steps:
        times = (step.seconds, step.compute, step.exchange, step.exposed)
        overlap = None if step.overlap is None else f"{step.overlap:.0%}"
        rows.append(
            [
                str(step.number),
                *(f"{1000 * each:,.1f}" for each in times),
                overlap,
                f"{1000 * step.data:,.1f}",
            ]
        )
    return Table(head, rows, title=title)
