"""A report from logs that exist already: DeepSpeed's, timm's, or any with "images/s".

Understood, by line:
  DeepSpeed   ... RunningAvgSamplesPerSec=732.1, CurrSamplesPerSec=735.9, ...   (the current value is used)
  timm        Train: 0 [  50/1251 (  4%)]  Loss: 6.9 (6.9)  Time: 0.350s,  732.10/s  (0.360s,  711.00/s) ...
  lbtrain     rows of metrics.jsonl with "images_per_sec"
  plain       a number before or after images/s, img/s, imgs/s, images/sec, samples/s or samples/sec
The first tenth of the values (at least one) is warm-up and left out.
"""

import argparse
import json
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import arguments
from .report import Report, ReportError, Row, rate_columns, with_efficiency

EXAMPLES = """\
one log a cluster size, given as GPUs=FILE:
  ingest 8=logs/8.txt 64=logs/64.txt --gpus-per-node 8 --per-gpu-batch 32 --out report.json
"""
_NUMBER = r"([0-9][0-9,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_UNIT = r"(?:images|imgs?|samples)\s?/\s?s(?:ec(?:ond)?)?\b"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"CurrSamplesPerSec=\s*{_NUMBER}",
        rf"Train: .*?Time: [0-9.]+s, +{_NUMBER}/s",
        rf"{_NUMBER}\s*{_UNIT}",
        rf"{_UNIT}\s*[:=]?\s*{_NUMBER}",
    )
)
_LEAST_VALUES = 3


def rates(lines: Sequence[str]) -> list[float]:
    """images/s of every line that states it, without the warm-up."""
    values = [value for line in lines if (value := _rate(line)) is not None and value > 0]
    return values[max(1, len(values) // 10) :]


def _rate(line: str) -> float | None:
    if line.startswith("{"):
        return _json_rate(line)
    for pattern in _PATTERNS:
        if match := pattern.search(line):
            return float(match[1].replace(",", ""))
    return None


def _json_rate(line: str) -> float | None:
    try:
        value = json.loads(line).get("images_per_sec")
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None


def row_from(lines: Sequence[str], *, gpus: int, gpus_per_node: int, per_gpu_batch: int | None) -> Row:
    """A measured row; raises ReportError if the log states too little."""
    values = rates(lines)
    if len(values) < _LEAST_VALUES:
        raise ReportError(
            f"{len(values)} images/s values after warm-up, at least {_LEAST_VALUES} are needed; `ingest "
            "--help` lists what is read"
        )
    nodes, batch = max(1, -(-gpus // gpus_per_node)), per_gpu_batch and per_gpu_batch * gpus
    columns = rate_columns(list(_block_means(values)), gpus)
    return Row(gpus=gpus, nodes=nodes, data="log", per_gpu_batch=per_gpu_batch, global_batch=batch, **columns)  # type: ignore[arg-type]


def _block_means(values: Sequence[float], *, most: int = 10) -> Iterator[float]:
    """Means of up to `most` consecutive blocks: neighbouring values of a log are not independent, far blocks
    nearly are.
    """
    blocks = min(most, len(values))
    for i in range(blocks):
        yield statistics.fmean(values[i * len(values) // blocks : (i + 1) * len(values) // blocks])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "logs", nargs="+", type=_log, metavar="GPUS=FILE", help="a log, and the number of GPUs that wrote it"
    )
    parser.add_argument("--gpus-per-node", type=arguments.count, default=8, help="default 8")
    parser.add_argument(
        "--per-gpu-batch", type=arguments.count, help="images a GPU and step; left open if not given"
    )
    parser.add_argument("--out", type=Path, required=True, help="the report to write")


def _log(text: str) -> tuple[int, Path]:
    gpus, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write the number of GPUs before the file, as 8={text}")
    return arguments.count(gpus), Path(path)


def run(options: argparse.Namespace) -> int:
    found = []
    for gpus, path in options.logs:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found.append(
                row_from(
                    lines, gpus=gpus, gpus_per_node=options.gpus_per_node, per_gpu_batch=options.per_gpu_batch
                )
            )
        except OSError as error:
            raise ReportError(f"{path} cannot be read ({error.strerror})") from None
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None
    Report(
        rows=with_efficiency(found), provenance={"ingested": [str(path) for _, path in options.logs]}
    ).save(options.out)
    print(f"{len(found)} rows in {options.out}; `render {options.out} --out FOLDER` shows them")
    return 0
