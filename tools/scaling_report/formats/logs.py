"""Images/s from logs of other programs. The unit decides: a value is of the whole job, of one GPU or of one
process, by the words around it or by the program that wrote it.

  of the job      DeepSpeed (CurrSamplesPerSec), timm (Time: 0.35s, 732.10/s), lbtrain (metrics.jsonl),
                  MLPerf (:::MLLOG throughput, or train_samples over the time of epochs and blocks), DLLogger
                  (total_ips, text and JSON), "Total img/sec on 8 GPU(s): 2400", "total 2400 images/s", and a
                  number beside images/s, img/s, imgs/s, images/sec, samples/s or samples/sec without more
                  words
  of a GPU        Horovod (Iter #0: 300.1 img/sec per GPU), and every "per GPU", "/GPU", "each GPU"
  of a process    torchvision's references (img/s: 800.1 (790.2)), which give each process one GPU
  not decided     tf_cnn_benchmarks (10  images/sec: 300.0): of one process, which may hold several GPUs; its
                  last line, "total images/sec", decides, or --per does
"""

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..report import ReportError

Unit = Literal["total", "gpu", "process", "undecided"]
_NUMBER = r"([0-9][0-9,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_UNIT = r"(?:images|image|imgs?|samples)\s?/\s?s(?:ec(?:ond)?)?\b"
# The most particular first.
_WORDED: tuple[tuple[Unit, str], ...] = (
    ("total", rf"CurrSamplesPerSec=\s*{_NUMBER}"),
    ("total", rf"Train: .*?Time: [0-9.]+s, +{_NUMBER}/s"),
    ("total", rf"total_ips\s*:\s*{_NUMBER}"),
    ("total", rf"compute_ips\s*:\s*{_NUMBER}"),
    ("total", rf"total img/sec on \d+ .PU\(s\):\s*{_NUMBER}"),
    ("undecided", rf"(?:^|\s)\d+\s+images/sec:\s*{_NUMBER}"),
    ("process", rf"(?:eta|lr):.*\bimg/s:\s*{_NUMBER}"),
    ("gpu", rf"{_UNIT}\s*(?:per|/|each|an?)\s*(?:GPU|CPU|device)[^:=]*[:=]\s*{_NUMBER}"),
    ("total", rf"\btotal\s+{_UNIT}\s*[:=]?\s*{_NUMBER}"),
    ("total", rf"\btotal\s*[:=]?\s*{_NUMBER}\s*{_UNIT}"),
    ("total", rf"{_NUMBER}\s*{_UNIT}\s*(?:in )?total"),
)
_PROGRAMS = tuple((unit, re.compile(pattern, re.IGNORECASE)) for unit, pattern in _WORDED)
_NAMED = re.compile(rf"{_UNIT}\s*[:=]\s*{_NUMBER}", re.IGNORECASE)
_VALUE = re.compile(rf"{_NUMBER}\s*{_UNIT}", re.IGNORECASE)
_BARE = re.compile(rf"{_UNIT}\s+{_NUMBER}", re.IGNORECASE)
_PER_GPU = re.compile(rf"{_UNIT}\s*(?:per|/|each|an?)\s*(?:GPU|device|accelerator)", re.IGNORECASE)
_PER_PROCESS = re.compile(rf"{_UNIT}\s*(?:per|/|each|an?)\s*(?:process|rank|worker)", re.IGNORECASE)
_DLLOGGER = (
    "total_ips",
    "train_throughput",
    "throughput_train",
    "throughput",
    "images_per_sec",
    "compute_ips",
    "ips",
)
_DISAGREE = 0.10
LEAST_VALUES = 3


@dataclass(frozen=True)
class Reading:
    value: float
    unit: Unit


def job_rates(lines: Sequence[str], *, gpus: int, per: Unit | None = None) -> list[float]:
    """images/s of the whole job on `gpus` GPUs, line by line, without the warm-up (a tenth, at least one).

    `per` says what the values are of, where the log does not. Raises ReportError where a log has two
    readings, naming both, and where it states too little.
    """
    readings = [*_mlperf(lines), *(each for line in lines if (each := read_line(line)))]
    readings = [each for each in readings if each.value > 0]
    totals = [each.value for each in readings if each.unit == "total"]
    others = [each for each in readings if each.unit != "total"]
    if per or len(others) <= len(totals):
        chosen = readings if per else [each for each in readings if each.unit == "total"]
        values = [each.value * (1 if (per or "total") == "total" else gpus) for each in chosen]
    else:
        values = [each.value for each in others]
        values = [value * _factor(others, totals, gpus) for value in values]
    warm = values[max(1, len(values) // 10) :]
    if len(warm) < LEAST_VALUES:
        raise ReportError(
            f"{len(warm)} images/s values after warm-up, at least {LEAST_VALUES} are needed; `ingest --help` "
            "lists what is read"
        )
    if not per and totals:
        _check(statistics.median(warm), totals[-1], gpus)
    return warm


def _factor(others: Sequence[Reading], totals: Sequence[float], gpus: int) -> int:
    """How many of what the values are of make the job."""
    if all(each.unit != "undecided" for each in others):
        return gpus
    value = statistics.median(each.value for each in others)
    if totals:
        return max(1, round(totals[-1] / value))
    if gpus == 1:
        return 1
    raise ReportError(
        f"two readings: {value:,.1f} images/sec are of one process, which may hold several GPUs. On {gpus} "
        f"GPUs that is the whole job, or {value * gpus:,.1f} images/s from {gpus} processes. Say which with "
        "--per total or --per process"
    )


def _check(value: float, stated: float, gpus: int) -> None:
    if abs(value / stated - 1) > _DISAGREE:
        raise ReportError(
            f"two readings: {value:,.1f} images/s from the values of each step on {gpus} GPUs, and "
            f"{stated:,.1f} from the total that the log states. Check the number of GPUs, or say with --per "
            "what the values are of"
        )


def read_line(line: str) -> Reading | None:
    """What a line states; None of a line that states no rate."""
    if line.startswith("{"):
        return _json(line, ("images_per_sec",))
    if line.startswith("DLLL "):
        return _json(line[5:], _DLLOGGER)
    for unit, pattern in _PROGRAMS:
        if match := pattern.search(line):
            return Reading(_number(match[1]), unit)
    match = _NAMED.search(line) or _VALUE.search(line) or _BARE.search(line)
    if match is None:
        return None
    unit = "gpu" if _PER_GPU.search(line) else "process" if _PER_PROCESS.search(line) else "total"
    return Reading(_number(match[1]), unit)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _json(text: str, names: Sequence[str]) -> Reading | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if values.get("step") in ("PARAMETER", [], ()):  # DLLogger's settings and its summary
        return None
    values = values.get("data", values)
    for name in names:
        for key, value in values.items() if isinstance(values, dict) else ():
            training = not re.match(r"(?:val|eval|test)", key)
            if training and key.rpartition(".")[2] == name and isinstance(value, int | float):
                return Reading(float(value), "total")
    return None


def _mlperf(lines: Sequence[str]) -> Iterator[Reading]:
    events = [event for line in lines if (event := _mllog(line))]
    stated = [
        value
        for event in events
        if event.get("key") in ("tracked_stats", "throughput")
        for value in [
            event["value"]["throughput"]
            if isinstance(event["value"], dict) and "throughput" in event["value"]
            else event["value"]
        ]
        if isinstance(value, int | float)
    ]
    yield from (Reading(float(value), "total") for value in stated or _of_epochs(events))


def _mllog(line: str) -> dict[str, Any] | None:
    _, found, text = line.partition(":::MLLOG ")
    if not found:
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _of_epochs(events: Sequence[dict[str, Any]]) -> Iterator[float]:
    """train_samples over the time of every epoch, or of every block of epochs between two evaluations."""
    samples = next((event["value"] for event in events if event["key"] == "train_samples"), None)
    if not isinstance(samples, int | float):
        return
    kind = "epoch" if any(event["key"] == "epoch_start" for event in events) else "block"
    began: dict[str, Any] | None = None
    for event in events:
        if event["key"] == f"{kind}_start":
            began = event
        elif event["key"] == f"{kind}_stop" and began:
            epochs = 1.0 if kind == "epoch" else began.get("metadata", {}).get("epoch_count") or 1.0
            yield samples * epochs / max(1e-3, (event["time_ms"] - began["time_ms"]) / 1000)
            began = None
