"""Schedules are pure functions of progress: examples seen over examples in the whole run, in [0, 1].

Nothing here has state, so nothing has to be saved, and a change of the batch or of the world size cannot shift a warm-up.

Sources: Goyal et al. 2017, sections 2.1 (linear rule), 2.2 (warm-up) and 5.1 (decay); You et al. 2017, section 5 (polynomial decay);
Krizhevsky 2014, section 5 (square-root rule); Loshchilov & Hutter 2017, equation 5 (cosine); Smith et al. 2018, sections 2 to 4 (growing
batch, momentum).
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Self

from lbtrain.errors import RecipeError

Rule = Literal["linear", "sqrt", "none"]


@dataclass(frozen=True)
class Duration:
    """A length with its unit: epochs (`5ep`), optimizer steps (`500it`) or a share of the whole run (`0.05dur`)."""

    value: float
    unit: Literal["ep", "it", "dur"]

    @classmethod
    def parse(cls, text: str, name: str = "duration") -> Self:
        """Raises RecipeError for anything but a non-negative number with one of the three units."""
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?|\.[0-9]+)(ep|it|dur)", text)
        if not match:
            raise RecipeError(f"{name}={text}: a duration carries its unit: 5ep (epochs), 500it (steps) or 0.05dur (share of the run)")
        value = float(match[1])
        if match[2] == "dur" and value > 1:
            raise RecipeError(f"{name}={text}: a share of the run is at most 1dur")
        return cls(value, match[2])  # type: ignore[arg-type]

    def examples(self, *, train_examples: int, batch_size: int, total_examples: int) -> float:
        """The same length in examples seen: exact decimals, so that 1.1ep of 1440 is 1584 and not a trifle more, which would be another
        step.
        """
        return float(Fraction(str(self.value)) * {"ep": train_examples, "it": batch_size, "dur": total_examples}[self.unit])


@dataclass(frozen=True)
class Milestone:
    """Where a step decay falls: `60ep`, or `60ep:0.32` with a factor of its own."""

    at: str
    factor: float | None = None

    @classmethod
    def parse(cls, text: str, name: str = "milestones") -> Self:
        """Raises RecipeError for anything but a duration, and behind a colon a decimal number above 0, at most 1."""
        at, colon, factor = text.partition(":")
        if colon and not (re.fullmatch(r"[01](?:\.[0-9]{1,12})?", factor) and 0 < float(factor) <= 1):
            raise RecipeError(f"{name}={text}: write where the rate falls, or also to which share of itself: 60ep, 60ep:0.2")
        Duration.parse(at, name)
        return cls(at, float(factor) if colon else None)


@dataclass(frozen=True)
class BatchGrowth:
    """Where a batch grows and by what: `60ep:5` is five times the batch from the first step at or after epoch 60."""

    at: str
    factor: Fraction

    @classmethod
    def parse(cls, text: str, name: str = "batch_growth") -> Self:
        """Raises RecipeError for anything but a duration, a colon and a decimal number above 1."""
        at, _, factor = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", factor) or Fraction(factor) <= 1:
            raise RecipeError(f"{name}={text}: write where the batch grows and by which factor above 1, such as 60ep:5")
        if not Duration.parse(at, name).value:
            raise RecipeError(f"{name}={text}: the batch that the run starts with is batch_size")
        return cls(at, Fraction(factor))


@dataclass(frozen=True)
class TableEntry:
    """A learning rate that was found for one batch size: `8192:16`."""

    batch_size: int
    lr: float

    @classmethod
    def parse(cls, text: str, name: str = "table") -> Self:
        """Raises RecipeError for anything but a batch size, a colon and a rate above 0."""
        batch_size, _, lr = text.partition(":")
        number = r"([0-9]{1,9}(?:\.[0-9]{1,12})?)(?:e(-?[0-9]{1,2}))?"
        if not re.fullmatch(r"[1-9][0-9]{0,9}", batch_size) or not re.fullmatch(number, lr) or not float(lr):
            raise RecipeError(f"{name}={text}: write a batch size and its learning rate, such as 8192:16")
        return cls(int(batch_size), float(lr))


def scale_lr(
    base_lr: float, base_batch_size: int, batch_size: int, rule: Rule, *, momentum: float = 0.0, base_momentum: float | None = None
) -> float:
    """The learning rate at `batch_size`, given the reference pair.

    linear: base_lr * B / B0 (Goyal et al. 2017, section 2.1); sqrt: base_lr * sqrt(B / B0); none: base_lr.
    `base_momentum` is the one that the reference pair was found with, if it differs from `momentum`: the rule then holds for the effective
    rate lr / (1 - momentum), so that under the linear rule B stays proportional to lr / (1 - momentum) (Smith et al. 2018, section 4).
    """
    ratio = batch_size / base_batch_size
    scaled = base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]
    return scaled if base_momentum is None else scaled * (1 - momentum) / (1 - base_momentum)


def lr_from_table(table: Sequence[TableEntry], batch_size: int) -> float:
    """Raises RecipeError for a batch size that is not in the table, or stands there twice."""
    rates = {entry.batch_size: entry.lr for entry in table}
    if len(rates) < len(table):
        raise RecipeError("schedule.table names a batch size twice")
    if batch_size not in rates:
        there = ", ".join(map(str, sorted(rates))) or "none"
        raise RecipeError(f"batch_size={batch_size} is not in schedule.table; those there: {there}")
    return rates[batch_size]


def mean_form_lr(lr_per_example: float, batch_size: int) -> float:
    """The rate for a loss averaged over the batch, given the one for a loss summed over it (Masters & Luschi 2018, section 2, "base
    learning rate"): w - lr_per_example * sum of gradients = w - (lr_per_example * B) * their mean.
    """
    return lr_per_example * batch_size


def sgd_noise_scale(lr: float, train_examples: int, batch_size: int, momentum: float = 0.0) -> float:
    """The size of the random fluctuations of SGD: lr / (1 - momentum) * (N / B - 1) (Smith et al. 2018, sections 2 and 4).

    Divide the rate by k, or multiply the batch by k: for B far below N it changes alike.
    """
    return lr / (1 - momentum) * (train_examples / batch_size - 1)


def warmup(progress: float, length: float, start_lr: float, peak_lr: float, form: Literal["gradual", "constant"] = "gradual") -> float:
    """The rate inside the warm-up, 0 <= progress < length: a straight line from start_lr, or start_lr throughout."""
    return start_lr if form == "constant" else start_lr + (peak_lr - start_lr) * progress / length


def step_decay(progress: float, milestones: tuple[float, ...], factors: tuple[float, ...]) -> float:
    """The factors of the milestones passed, multiplied; a milestone counts from the step that starts on it."""
    return math.prod(factors[: bisect_right(milestones, progress)])


def polynomial_decay(progress: float, power: float) -> float:
    """(1 - progress) ** power."""
    return (1 - progress) ** power


def cosine_decay(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of a run as a function of progress. All positions are shares of the run, in [0, 1].

    `step` milestones count from the start of the run (Goyal et al.); `poly` and `cosine` run from the end of the warm-up to the end of
    the run, so that the rate is continuous.
    """

    peak: float
    warmup_start: float
    warmup_length: float
    warmup_form: Literal["gradual", "constant"]
    decay: Literal["step", "poly", "cosine", "none"]
    milestones: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    """One a milestone."""
    power: float = 2.0

    def __call__(self, progress: float) -> float:
        if progress < self.warmup_length:
            return warmup(progress, self.warmup_length, self.warmup_start, self.peak, self.warmup_form)
        return self.peak * self._decayed(progress)

    def _decayed(self, progress: float) -> float:
        if self.decay == "step":
            return step_decay(progress, self.milestones, self.factors)
        rest = 1.0 if self.warmup_length >= 1 else min(1.0, (progress - self.warmup_length) / (1 - self.warmup_length))
        return {"poly": polynomial_decay(rest, self.power), "cosine": cosine_decay(rest), "none": 1.0}[self.decay]


def crossed(before: float, after: float, every: float) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
