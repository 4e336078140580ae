"""How many GPUs are worth it: time and GPU-hours to the target against GPUs, the knee, and one plain sentence.

Two curves meet. More GPUs compute more images/s (a prediction). A larger batch needs more images for the same result: where a very small
batch needs E, a batch B needs E (1 + B / critical batch) (McCandlish et al. 2018, equation 2.11). The critical batch is about the gradient
noise scale, which tools.landscape measures.
"""

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.scaling_report import arguments
from tools.scaling_report.report import Report, ReportError, load

EXAMPLES = """\
90 epochs of ImageNet at batch 256 reach the target, the noise scale is 8,000 images, each GPU takes 32:
  advise prediction.json --critical-batch 8000 --examples 115e6 --at-batch 256 --micro-batch 32
"""
# A doubling of the GPUs that saves less than this is past the knee.
LEAST_SAVING = 0.10


@dataclass(frozen=True, kw_only=True)
class Option:
    gpus: int
    batch_size: int
    hours: float
    gpu_hours: float


def options_for(
    rates: Sequence[tuple[int, float]], *, critical_batch: float, examples: float, at_batch: int, micro_batch: int
) -> list[Option]:
    """An option for each (GPUs, images/s); `examples` is what the target takes at `at_batch`."""
    least = examples / (1 + at_batch / critical_batch)
    found = []
    for gpus, images_per_s in sorted(rates):
        batch = gpus * micro_batch
        hours = least * (1 + batch / critical_batch) / images_per_s / 3600
        found.append(Option(gpus=gpus, batch_size=batch, hours=hours, gpu_hours=hours * gpus))
    return found


def knee(options: Sequence[Option]) -> Option:
    """The last option whose step up from the one before saved at least LEAST_SAVING of the time a doubling."""
    best = options[0]
    for smaller, larger in itertools.pairwise(options):
        doublings = math.log2(larger.gpus / smaller.gpus)
        if 1 - (larger.hours / smaller.hours) ** (1 / doublings) < LEAST_SAVING:
            break
        best = larger
    return best


def sentence(options: Sequence[Option]) -> str:
    best = knee(options)
    cost = f"{_hours(best.hours)}, {best.gpu_hours:,.0f} GPU-hours"
    if best == options[-1]:
        return f"{best.gpus} GPUs ({cost}); every doubling up to there saves {LEAST_SAVING:.0%} or more, so ask about larger sizes too."
    return f"{best.gpus} GPUs ({cost}); past {best.gpus} each doubling saves under {LEAST_SAVING:.0%} of the time."


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("report", type=Path, help="a report with predictions (predict --out) or measured rows")
    parser.add_argument("--critical-batch", type=arguments.positive, required=True, help="images; about the gradient noise scale")
    parser.add_argument("--examples", type=arguments.positive, required=True, help="images to the target at --at-batch (epochs x data set)")
    parser.add_argument("--at-batch", type=arguments.count, default=256, help="global batch that --examples was counted at (default 256)")
    parser.add_argument("--micro-batch", type=arguments.count, required=True, help="images a GPU takes a step")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    found = options_for(
        _rates(load(options.report), options.report),
        critical_batch=options.critical_batch, examples=options.examples, at_batch=options.at_batch, micro_batch=options.micro_batch,
    )  # fmt: skip
    if options.json:
        print(json.dumps({"options": [asdict(each) for each in found], "knee": knee(found).gpus, "advice": sentence(found)}, indent=1))
        return 0
    print(f"{'GPUs':>6}{'batch':>9}{'time':>14}{'GPU-hours':>12}")
    for each in found:
        print(f"{each.gpus:6}{each.batch_size:9,}{_hours(each.hours):>14}{each.gpu_hours:12,.0f}")
    print(sentence(found))
    return 0


def _rates(report: Report, path: Path) -> list[tuple[int, float]]:
    """images/s by size; a measured size stands before a predicted one."""
    rates = {each.gpus: each.images_per_s for each in report.predictions}
    rates |= {row.gpus: row.images_per_s for row in report.good_rows() if row.images_per_s and row.mode == "weak"}
    if not rates:
        raise ReportError(f"{path} holds no images/s: give a report by `predict --out` or `measure`")
    return list(rates.items())
