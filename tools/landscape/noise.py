"""From the noise rows of a run: critical batch, steps and examples at every batch size, and a batch schedule.

Source: McCandlish et al. 2018, sections 2.2 and 2.3 and appendix D. A step at batch B makes as much progress
as 1 / (1 + noise / B) steps without noise. Added up over the run that gives

    steps_min = sum 1 / (1 + noise / B)        examples_min = sum noise / (1 + noise / B)

and, at another batch, steps = steps_min + examples_min / B, which is the curve (steps / steps_min -
1)(examples / examples_min - 1) = 1. Limits: B_simple in place of B_noise, a run whose rate was tuned for its
batch, and the same end point at every batch.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lbtrain.analysis.noise_scale import Moments, NoiseScale, moments_of_row, noise_scale
from lbtrain.errors import RecipeError

WINDOWS = 8
"""Into as many a run is cut at most."""
FEWEST = 5
"""Measurements in a window, at least."""
REMEDY = (
    "Measure more often, or split a batch into more micro-batches (micro_batch_size): each is then "
    "measured, and a single one only in part"
)
RESAMPLES = 1000


@dataclass(frozen=True)
class Window:
    """A part of the run: measurements that are averaged, before dividing; `start` to `end` in examples,
    `steps` in it by batch size.
    """

    start: int
    end: int
    steps: dict[int, float]
    measured: list[Moments]

    @property
    def noise(self) -> NoiseScale:
        return noise_scale(self.measured)

    @property
    def bounded(self) -> bool:
        """Whether the gradient shows beside the noise, which is then bounded."""
        return math.isfinite(self.noise.high)

    def fewest_steps(self, noise: float) -> float:
        """How many steps without noise make the progress of these."""
        return sum(count / (1 + noise / size) for size, count in self.steps.items())


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


def size_text(size: float) -> str:
    """A batch size, which has at least one example."""
    return f"{size:,.0f}" if size >= 1 else "below 1"


def interval_text(low: float, high: float | None) -> str:
    """Of a batch size, with or without an upper end; a lower end below one example is none."""
    if high is None:
        return f"above {low:,.0f}"
    return f"{low:,.0f} to {high:,.0f}" if low >= 1 else f"below {max(1.0, high):,.0f}"


def windows(rows: Sequence[dict[str, Any]]) -> list[Window]:
    """Cuts the rows of kind `noise` into up to WINDOWS windows whose noise scale has an upper bound: one
    without is averaged with its neighbours. Every measurement counts. To leave some out by their value, such
    as where |G|^2 comes out negative, would make the noise scale too small.

    Raises RecipeError where there are too few rows, or where not even the average over the run shows both
    gradient and noise.
    """
    if len(rows) < FEWEST:
        raise RecipeError(
            f"{len(rows)} measurements of the gradient noise are too few, {FEWEST} are needed: train with "
            "measure.noise_scale=20it, or more often where the run is that short"
        )
    found: list[Window] = []
    for window in _cut(rows, most_windows(len(rows))):
        if found and not found[-1].bounded:
            found[-1] = _joined(found[-1], window)
        else:
            found.append(window)
    while len(found) > 1 and not found[-1].bounded:
        found[-2:] = [_joined(*found[-2:])]
    whole = noise_scale([moments_of_row(row) for row in rows])
    if not (found[0].bounded and whole.low):
        raise RecipeError(f"in {len(rows)} measurements {_bounds(whole)}. {REMEDY}")
    return found


def most_windows(measurements: int) -> int:
    """Into how many windows so many measurements are cut, if the gradient shows in each."""
    return min(WINDOWS, measurements // FEWEST)


def _joined(before: Window, after: Window) -> Window:
    steps = Counter(before.steps) + Counter(after.steps)
    return Window(before.start, after.end, dict(steps), before.measured + after.measured)


def _bounds(noise: NoiseScale) -> str:
    """What can be concluded where gradient and noise do not both show."""
    if math.isfinite(noise.high):
        return (
            "no noise shows beside the gradient: the critical batch is below "
            f"{max(1.0, noise.high):,.0f}, and more cannot be said"
        )
    if noise.low:
        return (
            f"the gradient drowns in the noise: the critical batch is above {noise.low:,.0f}, and more "
            "cannot be said"
        )
    return "gradient and noise cannot be told apart, and nothing can be said of the critical batch"


def _cut(rows: Sequence[dict[str, Any]], count: int) -> list[Window]:
    """A row stands for what was seen since the one before it, at its own batch: a batch may grow within a
    window.
    """
    edges = [round(index * len(rows) / count) for index in range(count + 1)]
    found, end = [], 0
    for first, last in itertools.pairwise(edges):
        start, steps = end, defaultdict[int, float](float)
        for row in rows[first:last]:
            steps[row["large_batch"]] += (row["examples"] - end) / row["large_batch"]
            end = row["examples"]
        found.append(Window(start, end, dict(steps), [moments_of_row(row) for row in rows[first:last]]))
    return found


def advise(found: Sequence[Window]) -> Advice:
    """The critical batch of all windows. The interval is the middle 95% of resampled measurements (bootstrap
    within each window).
    """
    measured = [np.array(window.measured) for window in found]
    steps, examples = _minima(found, map(_ratio, measured))
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        ratios = [_ratio(generator.choice(own, len(own))) for own in measured]
        few_steps, few_examples = _minima(found, ratios)
        resampled.append(few_examples / few_steps if few_steps else math.inf)
    low, high = np.quantile(resampled, [0.025, 0.975], method="nearest")
    interval = float(low), float(high) if math.isfinite(high) else None
    return Advice(examples / steps, interval, steps, examples)


def _ratio(measured: "np.ndarray[Any, Any]") -> float:
    square, trace = measured.mean(0)
    return max(0.0, trace / square) if square > 0 else math.inf


def _minima(found: Sequence[Window], ratios: Iterable[float]) -> tuple[float, float]:
    """steps_min and examples_min of these windows from each one's noise scale."""
    steps = examples = 0.0
    for window, ratio in zip(found, ratios, strict=True):
        few = window.fewest_steps(ratio)
        steps, examples = steps + few, examples + (math.inf if math.isinf(ratio) else ratio * few)
    return steps, examples


def batch_schedule(found: Sequence[Window], *, train_examples: int, whole: int) -> list[str]:
    """Overrides that let the batch follow the noise scale by powers of two: `batch_size=32`,
    `schedule.batch_growth=2ep:2,5ep:4`.

    The growth is there also where it is empty, since a recipe may have one of its own. A batch is `whole`
    examples (a ghost batch) times a power of two. The batch never shrinks, nor is it more than an eighth of
    the data, or `whole` where that is more.
    """
    most = max(whole, train_examples / 8)
    (_, size), *later = [
        (window.start, _power_of_two(window.noise.value or 0.0, whole, most)) for window in found
    ]
    growth, first = [], size
    for start, wanted in later:
        if wanted > size:
            growth.append(f"{round(start / train_examples, 3):g}ep:{wanted // size}")
            size = wanted
    return [f"batch_size={first}", f"schedule.batch_growth={','.join(growth)}"]


def _power_of_two(noise: float, whole: int, most: float) -> int:
    """`whole` times the power of two that comes nearest to the noise scale, or the last one below `most`."""
    power = min(round(math.log2(max(1.0, noise) / whole)), math.floor(math.log2(most / whole)))
    return int(whole * 2 ** max(0, power))
