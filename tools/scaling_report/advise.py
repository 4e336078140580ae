"""How many GPUs are worth it: time and GPU-hours to the target against GPUs, the knee, and one plain
sentence.

Two curves meet. More GPUs compute more images/s (a prediction). A larger batch needs more images for the same
result: where a very small batch needs E, a batch B needs E (1 + B / critical batch) (McCandlish et al. 2018,
equation 2.11). The critical batch is about the gradient noise scale, which tools.landscape measures: give the
run directory that it looked at, or a number of your own.
"""

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import arguments
from .report import Report, ReportError, load

EXAMPLES = """\
90 epochs of ImageNet at batch 256 reach the target, the noise scale is 8,000 images, each GPU takes 32:
  advise prediction.json --critical-batch 8000 --examples 115e6 --at-batch 256 --micro-batch 32
the critical batch as `python -m tools.landscape batch runs/resnet50` found it:
  advise prediction.json --noise-scale runs/resnet50 --examples 115e6 --micro-batch 32
"""
# What `tools.landscape batch RUN_DIR` writes in a run directory.
_FOUND = Path("landscape/batch.json")
# A doubling of the GPUs that saves less than this is past the knee.
LEAST_SAVING = 0.10


@dataclass(frozen=True, kw_only=True)
class Option:
    gpus: int
    batch_size: int
    hours: float
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class Critical:
    """The critical batch in images with its interval (equal bounds where it was just given; `high` None: no
    upper bound is known), and the fewest images that do, if known.
    """

    batch: float
    low: float
    high: float | None
    min_examples: float | None = None

    @staticmethod
    def given(batch: float) -> "Critical":
        return Critical(batch=batch, low=batch, high=batch)

    @staticmethod
    def read(path: Path) -> "Critical":
        """From a run directory or a JSON file. Raises ReportError where it is not there or holds no critical
        batch.
        """
        file = path / _FOUND if path.is_dir() else path
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            batch, (low, high), least = (
                float(values["critical_batch"]),
                values["critical_batch_interval"],
                values["min_examples"],
            )
        except OSError as error:
            raise ReportError(
                f"{file} cannot be read ({error.strerror}): `python -m tools.landscape batch RUN_DIR` "
                "writes it"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(
                f"{file} does not say a critical batch ({type(error).__name__}: {error})"
            ) from None
        if not (0 < batch < math.inf and low > 0 and (high is None or low <= high)):
            raise ReportError(f"{file}: a critical batch of {batch} in [{low}, {high}] cannot be")
        return Critical(
            batch=batch, low=float(low), high=high and float(high), min_examples=least and float(least)
        )

    @property
    def words(self) -> str:
        if self.low == self.high:
            return f"critical batch {self.batch:,.0f} images"
        return (
            f"critical batch {self.batch:,.0f} images ({self.low:,.0f} to "
            f"{f'{self.high:,.0f}' if self.high else 'no known bound'})"
        )


def options_for(
    rates: Sequence[tuple[int, int, float]], *, critical_batch: float, least_examples: float
) -> list[Option]:
    """An option for each (GPUs, global batch, images/s); `least_examples` is what the target takes at a very
    small batch.
    """
    found = []
    for gpus, batch, images_per_s in sorted(rates):
        hours = least_examples * (1 + batch / critical_batch) / images_per_s / 3600
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


def sentence(options: Sequence[Option], bounds: Sequence[Option] = ()) -> str:
    """What to do. `bounds` are the knees at both ends of the critical batch's interval."""
    best = knee(options)
    cost = f"{_hours(best.hours)}, {_gpu_hours(best.gpu_hours)} GPU-hours"
    if len(options) == 1:
        return f"{best.gpus} GPUs take {cost}; one size alone has no knee: predict or measure more."
    reach = sorted({each.gpus for each in bounds} | {best.gpus})
    doubt = (
        f" The critical batch is not known exactly: the knee may lie from {reach[0]} to {reach[-1]} GPUs."
        if len(reach) > 1
        else ""
    )
    if best == options[-1]:
        return (
            f"{best.gpus} GPUs ({cost}); every doubling up to there saves {LEAST_SAVING:.0%} or more, so "
            f"ask about larger sizes too.{doubt}"
        )
    return (
        f"{best.gpus} GPUs ({cost}); past {best.gpus} each doubling saves under {LEAST_SAVING:.0%} of "
        f"the time.{doubt}"
    )


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else f"{3600 * hours:.0f} seconds"


def _gpu_hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "report", type=Path, help="a report with predictions (predict --out) or measured rows"
    )
    critical = parser.add_mutually_exclusive_group(required=True)
    critical.add_argument(
        "--critical-batch", type=arguments.positive, help="images; about the gradient noise scale"
    )
    critical.add_argument(
        "--noise-scale",
        type=Path,
        metavar="RUN_DIR",
        help="a run that tools.landscape looked at, or its batch.json",
    )
    parser.add_argument(
        "--examples", type=arguments.positive, help="images to the target at --at-batch (epochs x data set)"
    )
    parser.add_argument(
        "--at-batch",
        type=arguments.count,
        default=256,
        help="global batch that --examples was counted at (default 256)",
    )
    parser.add_argument(
        "--micro-batch",
        type=arguments.count,
        help="images a GPU takes a step (default: as measured or predicted)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    critical = (
        Critical.read(options.noise_scale) if options.noise_scale else Critical.given(options.critical_batch)
    )
    rates = _rates(load(options.report), options.report, options.micro_batch)
    found, *bounds = (
        options_for(rates, critical_batch=batch, least_examples=_least(options, critical, batch))
        for batch in (critical.batch, critical.low, critical.high or math.inf)
    )
    advice = sentence(found, [knee(each) for each in bounds])
    if options.json:
        print(
            json.dumps(
                {
                    "critical": asdict(critical),
                    "options": list(map(asdict, found)),
                    "knee": knee(found).gpus,
                    "advice": advice,
                },
                indent=1,
            )
        )
        return 0
    print(critical.words)
    print(f"{'GPUs':>6}{'batch':>9}{'time':>14}{'GPU-hours':>12}")
    for each in found:
        mark = "  <- the knee" if each == knee(found) else ""
        print(
            f"{each.gpus:6}{each.batch_size:9,}{_hours(each.hours):>14}{_gpu_hours(each.gpu_hours):>12}{mark}"
        )
    print(advice)
    return 0


def _least(options: argparse.Namespace, critical: Critical, batch: float) -> float:
    """Images to the target at a very small batch."""
    if options.examples:
        return float(options.examples) / (1 + options.at_batch / batch)
    if critical.min_examples:
        return critical.min_examples
    raise ReportError(
        "--examples must be given: how many images (epochs x data set) reach the target at --at-batch"
    )


def _rates(report: Report, path: Path, micro_batch: int | None) -> list[tuple[int, int, float]]:
    """(GPUs, global batch, images/s) by size; a measured size stands before a predicted one."""
    rates = {each.gpus: (each.global_batch, each.images_per_s) for each in report.predictions}
    modes = {each.mode for each in report.predictions} or {"weak"}
    for row in report.good_rows():
        if row.images_per_s and row.global_batch and row.mode in modes:
            rates[row.gpus] = (row.global_batch, row.images_per_s)
    if not rates:
        raise ReportError(
            f"{path} holds no images/s with a batch size: give a report by `predict --out` or `measure`"
        )
    return [
        (gpus, gpus * micro_batch if micro_batch else batch, rate) for gpus, (batch, rate) in rates.items()
    ]
