"""From the noise rows of a run: critical batch, steps and examples at every batch size, and a batch schedule.

Source: McCandlish et al. 2018, sections 2.2 and 2.3 and appendix D. A step at batch B makes as much progress as 1 / (1 + noise / B) steps
without noise. Added up over the run that gives

    steps_min = sum 1 / (1 + noise / B)        examples_min = sum noise / (1 + noise / B)

and, at another batch, steps = steps_min + examples_min / B, which is the curve (steps / steps_min - 1)(examples / examples_min - 1) = 1.
Limits: B_simple in place of B_noise, a run whose rate was tuned for its batch, and the same end point at every batch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lbtrain.analysis.noise_scale import Moments, NoiseScale, moments_of_row, noise_scale
from lbtrain.errors import RecipeError

WINDOWS = 8
FEWEST = 5
"""Measurements in a window, at least."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Window:
    """A part of the run: measurements that are averaged, before dividing; `start` to `end` in examples, `steps` in it at `batch_size`."""

    start: int
    end: int
    batch_size: int
    measured: list[Moments]

    @property
    def steps(self) -> float:
        return (self.end - self.start) / self.batch_size

    @property
    def noise(self) -> NoiseScale:
        return noise_scale(self.measured)


@dataclass(frozen=True)
class Advice:
    """Batch sizes in examples; an interval end of None is not bounded by the measurements."""

    critical_batch: float
    critical_batch_interval: tuple[float, float | None]
    min_steps: float
    min_examples: float

    def steps(self, batch_size: float) -> float:
        return self.min_steps + self.min_examples / batch_size

    def examples(self, batch_size: float) -> float:
        return self.min_examples + self.min_steps * batch_size


def windows(rows: Sequence[dict[str, Any]]) -> list[Window]:
    """Cuts the rows of kind `noise` into windows of equal count: WINDOWS, or as many as let a gradient be told from the noise in each.

    Raises RecipeError where there are too few rows, or where the gradient drowns in the noise even on average over the run.
    """
    if len(rows) < FEWEST:
        raise RecipeError(
            f"{len(rows)} measurements of the gradient noise are too few, {FEWEST} are needed: train with measure.noise_scale=10it or so"
        )
    for count in range(min(WINDOWS, len(rows) // FEWEST), 0, -1):
        found = _cut(rows, count)
        if all(window.noise.value is not None for window in found):
            return found
    raise RecipeError(
        f"in {len(rows)} measurements the gradient drowns in the noise: the critical batch is above {found[0].noise.low:,.0f}, and more "
        f"cannot be said. Measure more often, or train at a larger batch"
    )


def _cut(rows: Sequence[dict[str, Any]], count: int) -> list[Window]:
    edges = [round(index * len(rows) / count) for index in range(count + 1)]
    found, start = [], 0
    for first, last in itertools.pairwise(edges):
        part = rows[first:last]
        found.append(Window(start, part[-1]["examples"], part[-1]["large_batch"], [moments_of_row(row) for row in part]))
        start = part[-1]["examples"]
    return found


def advise(found: Sequence[Window]) -> Advice:
    """The interval is the middle 95% of resampled measurements (bootstrap within each window).

    Raises RecipeError where no window shows any noise beside the gradient.
    """
    steps, examples = _minima(found, [_ratio(np.array(window.measured)) for window in found])
    if not examples:
        raise RecipeError(
            f"in {sum(len(window.measured) for window in found)} measurements no noise shows beside the gradient: the critical batch is "
            f"below {max(window.noise.high for window in found):,.0f}, and more cannot be said. Measure more often"
        )
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        ratios = [_ratio(generator.choice(np.array(window.measured), len(window.measured))) for window in found]
        few_steps, few_examples = _minima(found, ratios)
        resampled.append(few_examples / few_steps if few_steps else math.inf)
    low, high = np.quantile(resampled, [0.025, 0.975], method="nearest")
    return Advice(examples / steps, (float(low), float(high) if math.isfinite(high) else None), steps, examples)


def _ratio(measured: "np.ndarray[Any, Any]") -> float:
    square, trace = measured.mean(0)
    return max(0.0, trace / square) if square > 0 else math.inf


def _minima(found: Sequence[Window], ratios: Sequence[float]) -> tuple[float, float]:
    """steps_min and examples_min of the run from each window's noise scale."""
    shares = [1 / (1 + ratio / window.batch_size) for window, ratio in zip(found, ratios, strict=True)]
    steps = sum(share * window.steps for share, window in zip(shares, found, strict=True))
    if any(math.isinf(ratio) for ratio in ratios):
        return steps, math.inf
    return steps, sum(ratio * share * window.steps for ratio, share, window in zip(ratios, shares, found, strict=True))


def batch_schedule(found: Sequence[Window], *, train_examples: int, whole: int) -> list[str]:
    """Overrides that let the batch follow the noise scale by powers of two: `batch_size=32`, `schedule.batch_growth=2ep:2,5ep:4`.

    A batch is `whole` examples (a ghost batch) times a power of two. Where a window's noise scale has no upper bound, its lower one counts.
    The batch never shrinks, nor grows past an eighth of the data.
    """
    most = max(1.0, train_examples / 8)
    (_, size), *later = [(window.start, _power_of_two(min(_supported(window.noise), most), whole)) for window in found]
    words, growth = [f"batch_size={size}"], []
    for start, wanted in later:
        if wanted > size:
            growth.append(f"{round(start / train_examples, 3):g}ep:{wanted // size}")
            size = wanted
    return words + ([f"schedule.batch_growth={','.join(growth)}"] if growth else [])


def _supported(noise: NoiseScale) -> float:
    return noise.value if noise.value is not None and math.isfinite(noise.high) else noise.low


def _power_of_two(noise: float, whole: int) -> int:
    """`whole` times the power of two that comes nearest to the noise scale."""
    return int(whole * 2 ** max(0, round(math.log2(max(1.0, noise) / whole))))
