"""What a target costs on so many GPUs at a batch, and the knee: the last size whose step up from the one
before saved at least LEAST_SAVING of the time for each doubling.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SAVING = 0.10


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Images/s of a cluster at a global batch, with the interval of the prediction (None: measured),
    and the preset of the GPU, where that is known.
    """

    gpus: int
    nodes: int
    batch_size: int
    images_per_s: float
    interval: tuple[float, float] | None = None
    gpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the target costs on so many GPUs at a batch. `low` and `high` bound the hours; money is in the
    unit of --price, energy in kWh.
    """

    gpus: int
    batch_size: int
    hours: float
    gpu_hours: float
    hours_low: float | None = None
    hours_high: float | None = None
    money: float | None = None
    energy_kwh: float | None = None


def options_for(rates: Sequence[Rate], *, critical_batch: float, least_examples: float) -> list[Option]:
    """An option for each rate; `least_examples` is what the target takes at a very small batch."""
    found = []
    for each in rates:
        hours = least_examples * (1 + each.batch_size / critical_batch) / each.images_per_s / 3600
        found.append(
            Option(gpus=each.gpus, batch_size=each.batch_size, hours=hours, gpu_hours=hours * each.gpus)
        )
    return sorted(found, key=lambda each: (each.gpus, each.batch_size))


def fastest(options: Sequence[Option]) -> list[Option]:
    """The option of each number of GPUs that takes the least time."""
    by_size = itertools.groupby(options, key=lambda each: each.gpus)
    return [min(group, key=lambda each: each.hours) for _, group in by_size]


def knee(options: Sequence[Option]) -> Option:
    """The last size whose step up from the one before saved at least LEAST_SAVING of the time a doubling."""
    best, *larger_ones = fastest(options)
    for larger in larger_ones:
        doublings = math.log2(larger.gpus / best.gpus)
        if 1 - (larger.hours / best.hours) ** (1 / doublings) < LEAST_SAVING:
            break
        best = larger
    return best


def sentence(options: Sequence[Option], bounds: Sequence[Option] = ()) -> str:
    """What to do. `bounds` are the knees at both ends of the critical batch's interval."""
    best, sizes = knee(options), fastest(options)
    cost = f"{hours_text(best.hours)}, {gpu_hours_text(best.gpu_hours)} GPU-hours"
    if len(sizes) == 1:
        return f"{best.gpus} GPUs take {cost}; one size alone has no knee: predict or measure more."
    reach = sorted({each.gpus for each in bounds} | {best.gpus})
    doubt = (
        f" The critical batch is not known exactly: the knee may lie from {reach[0]} to {reach[-1]} GPUs."
        if len(reach) > 1
        else ""
    )
    if best.gpus == sizes[-1].gpus:
        return (
            f"{best.gpus} GPUs ({cost}); every doubling up to there saves {LEAST_SAVING:.0%} or more, so "
            f"ask about larger sizes too.{doubt}"
        )
    return (
        f"{best.gpus} GPUs ({cost}); past {best.gpus} each doubling saves under {LEAST_SAVING:.0%} of "
        f"the time.{doubt}"
    )


def hours_text(hours: float | None) -> str:
    if hours is None:
        return "-"
    if hours >= 1:
        return f"{hours:,.1f} hours"
    if hours >= 1 / 30:
        return f"{60 * hours:.{0 if hours >= 1 / 6 else 1}f} minutes"
    return f"{3600 * hours:.0f} seconds"


def gpu_hours_text(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
