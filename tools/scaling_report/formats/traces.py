"""What other tools measured: tables of nccl-tests, and traces of torch's profiler (Kineto, JSON or .json.gz).

nccl-tests: the out-of-place times of all_reduce_perf; ranks and hosts from its list of devices, where it is
there. Another collective is told by its bus bandwidth, which is 2 (n-1)/n of the algorithm's for all-reduces
only, and is rejected.

A trace of one rank: every ProfilerStep is cut into computing, exchange that computing does not hide, and
waiting for the loader. Exchange is what NCCL's (or RCCL's) kernels take on the device, or gloo's operators on
a CPU.
"""

import gzip
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..report import Collective, ReportError

Span = tuple[float, float]
_COLUMNS = ("size", "time", "algbw", "busbw")
_LARGEST = 2**53  # bytes
_EXCHANGE = re.compile(r"\b(?:nccl|rccl)|ncclDevKernel|ncclKernel|^gloo:", re.IGNORECASE)
_LOADER = re.compile(r"enumerate\(DataLoader\)|DataLoader.*__next__")
_DEVICE_CATEGORIES = {"kernel", "gpu_memcpy", "gpu_memset"}


def is_nccl_table(text: str) -> bool:
    return bool(re.search(r"^#\s+size\s+count\s+type", text, re.MULTILINE))


def read_nccl_table(text: str, *, gpus: int, gpus_per_node: int) -> list[Collective]:
    """All-reduces by size. Raises ReportError for another collective, for another number of ranks than
    `gpus`, for times that cannot be, and for results that nccl-tests found wrong.
    """
    header = next(line for line in text.splitlines() if re.match(r"#\s+size\s+count\s+type", line))
    columns = header.lstrip("#").split()
    ranks = re.findall(r"^#\s+Rank\s+\d+\s.*?\bon\s+(\S+)\s+device", text, re.MULTILINE)
    if ranks and len(ranks) != gpus:
        raise ReportError(f"the table lists {len(ranks)} ranks, not {gpus}: write {len(ranks)}=FILE")
    if gpus == 1:
        raise ReportError("an all-reduce of one rank exchanges nothing: write the number of ranks, as 8=FILE")
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise ReportError(f"the table of nccl-tests has no column {missing[0]}")
    places = [columns.index(name) for name in _COLUMNS]  # out of place comes first
    wrong = columns.index("#wrong") if "#wrong" in columns else None
    nodes = len(set(ranks)) if ranks else max(1, -(-gpus // gpus_per_node))
    found = []
    for line in text.splitlines():
        cells = line.split()
        if len(cells) < len(columns) or not (cells[0].isdigit() and int(cells[0])):
            continue
        try:
            size, time, algorithm, bus = (float(cells[place]) for place in places)
        except ValueError:
            continue
        _check_timing(size, time, algorithm, bus, gpus)
        if wrong and cells[wrong] not in ("0", "N/A"):
            raise ReportError(f"{cells[wrong]} results of {size:,.0f} bytes are wrong: the exchange fails")
        found.append(Collective(gpus=gpus, nodes=nodes, num_bytes=int(size), seconds=time / 1e6))
    if not found:
        raise ReportError("the table of nccl-tests holds no line of times: it was cut off before the first")
    return found


def _check_timing(size: float, time: float, algorithm: float, bus: float, gpus: int) -> None:
    """Raises ReportError unless an all-reduce may take so many microseconds, at these bandwidths in GB/s."""
    if not 0 < time < math.inf or size > _LARGEST:
        raise ReportError(f"{size:,.0f} bytes take {time} us, which cannot be")
    if algorithm > 1 and abs(size / time / 1e3 / algorithm - 1) > 0.05:
        raise ReportError(
            f"{size:,.0f} bytes in {time} us are {size / time / 1e3:,.2f} GB/s, but the table says "
            f"{algorithm}: a line is damaged, or its times are not in us"
        )
    expected = 2 * (gpus - 1) / gpus
    if algorithm > 1 and abs(bus / algorithm / expected - 1) > 0.05:
        raise ReportError(
            f"bus bandwidth is {bus / algorithm:.2f} times the algorithm's, where an all-reduce over "
            f"{gpus} ranks has {expected:.2f}: this is another collective, or another number of ranks"
        )


@dataclass(frozen=True)
class ProfiledStep:
    """Seconds of one step. `exchange` in all, `exposed` of it beside no computing, `data` waiting for the
    loader.
    """

    number: int
    seconds: float
    compute: float
    exchange: float
    exposed: float
    data: float

    @property
    def overlap(self) -> float | None:
        """The share of the exchange that computing hides; None where nothing was exchanged."""
        return 1 - self.exposed / self.exchange if self.exchange else None


def is_trace(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((".json", ".json.gz")) and b'"traceEvents"' in _head(path)


def _head(path: Path, length: int = 1 << 20) -> bytes:
    """The first bytes of a file, unpacked; all where `length` is -1. Raises ReportError where it is cut or
    damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return bytes(file.read(length))
    except (EOFError, zlib.error) as error:
        raise ReportError(f"cut or damaged ({error}); fetch or write it again") from None


def read_trace(path: Path) -> tuple[list[ProfiledStep], int | None]:
    """Every profiled step, and how many ranks the trace says there were. Raises ReportError where the trace
    holds no step.
    """
    try:
        trace = json.loads(_head(path, -1))
        events = [each for each in trace["traceEvents"] if isinstance(each, dict) and each.get("ph") == "X"]
        steps = _steps(events)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ReportError(f"not a trace of torch's profiler ({type(error).__name__}: {error})") from None
    if not steps:
        raise ReportError(
            "the trace has no ProfilerStep: call step() of the profiler after each training step"
        )
    job = trace.get("distributedInfo")
    ranks = job.get("world_size") if isinstance(job, dict) else None
    return steps, ranks if isinstance(ranks, int) else None


def _steps(events: Sequence[dict[str, Any]]) -> list[ProfiledStep]:
    on_device = any(each.get("cat") in _DEVICE_CATEGORIES for each in events)
    working = _DEVICE_CATEGORIES if on_device else {"cpu_op"}
    work = [each for each in events if each.get("cat") in working]
    exchange = _merged(_span(each) for each in work if _EXCHANGE.search(each["name"]))
    compute = _merged(_span(each) for each in work if not _EXCHANGE.search(each["name"]))
    data = _merged(_span(each) for each in events if _LOADER.search(each.get("name", "")))
    found: dict[int, Span] = {}
    for event in events:
        # On a device the annotation is there twice: of the program, and of what it started.
        if match := re.fullmatch(r"ProfilerStep#(\d+)", event.get("name", "")):
            found |= {} if event.get("cat") == "gpu_user_annotation" else {int(match[1]): _span(event)}
    if empty := [number for number, (start, end) in found.items() if start == end]:
        raise ValueError(f"step {empty[0]} takes no time")
    return [_cut(number, span, compute, exchange, data) for number, span in sorted(found.items())]


def _cut(
    number: int, step: Span, compute: Sequence[Span], exchange: Sequence[Span], data: Sequence[Span]
) -> ProfiledStep:
    inside, waits = _clipped(exchange, step), _clipped(data, step)
    computing = _clipped(compute, step)
    hidden = sum(_total(_clipped(computing, each)) for each in inside)
    micro = 1e-6
    return ProfiledStep(
        number=number,
        seconds=micro * (step[1] - step[0]),
        compute=micro * _total(computing),
        exchange=micro * _total(inside),
        exposed=micro * (_total(inside) - hidden),
        data=micro * _total(waits),
    )


def _span(event: dict[str, Any]) -> Span:
    """Microseconds. Raises ValueError for a time that cannot be."""
    start, duration = float(event["ts"]), float(event["dur"])
    if not (math.isfinite(start) and 0 <= duration < math.inf):
        raise ValueError(f"{event['name']} takes {duration} us from {start} us on")
    return start, start + duration


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The union of the spans, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _clipped(spans: Iterable[Span], within: Span) -> list[Span]:
    start, end = within
    near = itertools.takewhile(lambda span: span[0] < end, spans)
    return [(max(each[0], start), min(each[1], end)) for each in near if each[1] > start]


def _total(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)
