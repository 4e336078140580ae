"""What a target costs on so many GPUs at a batch, and the knee: the last size that saved at least
LEAST_SAVING of the time for each doubling, against the last such size before it.
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
    mode: str = "weak"
    interval: tuple[float, float] | None = None
    gpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the target costs on so many GPUs at a batch. `low` and `high` bound the hours; money is in the
    unit of --price, energy in kWh.
    """

    gpus: int
    batch_size: int
    mode: str
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
            Option(
                gpus=each.gpus,
                batch_size=each.batch_size,
                mode=each.mode,
                hours=hours,
                gpu_hours=hours * each.gpus,
            )
        )
    return sorted(found, key=lambda each: (each.gpus, each.batch_size))


def fastest(options: Sequence[Option]) -> list[Option]:
    """The option of each number of GPUs that takes the least time."""
    by_size = itertools.groupby(options, key=lambda each: each.gpus)
    return [min(group, key=lambda each: each.hours) for _, group in by_size]


def knee(options: Sequence[Option]) -> Option:
    """The last size that pays against the last one before it that did: where the step to a second node costs
    more than it gives, larger sizes may pay again.
    """
    best, *larger_ones = fastest(options)
    for larger in larger_ones:
        if _pays(best, larger):
            best = larger
    return best


def _pays(smaller: Option, larger: Option) -> bool:
    """Whether `larger` saves at least LEAST_SAVING of the time for each doubling."""
    doublings = math.log2(larger.gpus / smaller.gpus)
    return 1 - (larger.hours / smaller.hours) ** (1 / doublings) >= LEAST_SAVING


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
    return f"{best.gpus} GPUs ({cost}); {_reason(best, sizes)}.{doubt}"


def _reason(best: Option, sizes: Sequence[Option]) -> str:
    """Why `best` is the knee of `sizes`; "each" is said only where it holds from one size to the next."""
    least = f"{LEAST_SAVING:.0%}"
    steps = [(larger.gpus, _pays(smaller, larger)) for smaller, larger in itertools.pairwise(sizes)]
    if best.gpus < sizes[-1].gpus:
        if any(pays for gpus, pays in steps if gpus > best.gpus):
            return f"no larger size saves {least} of the time for each doubling from there"
        return f"past {best.gpus} each doubling saves under {least} of the time"
    if few := [str(gpus) for gpus, pays in steps if not pays]:
        return (
            f"a doubling up to there saves {least} or more on average, and the step to "
            f"{' and to '.join(few)} GPUs less: ask about larger sizes too"
        )
    return f"every doubling up to there saves {least} or more, so ask about larger sizes too"


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
