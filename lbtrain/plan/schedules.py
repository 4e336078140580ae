"""Schedules are pure functions of progress: examples seen over examples in the whole run, in [0, 1].

Nothing here has state, so nothing has to be saved, and a change of the batch or of the world size cannot
shift a warm-up.

Sources: Goyal et al. 2017, sections 2.1 (linear rule), 2.2 (warm-up) and 5.1 (decay); You et al. 2017,
section 5 (polynomial decay); Krizhevsky 2014, section 5 (square-root rule); Loshchilov & Hutter 2017,
equation 5 (cosine); Smith et al. 2018, sections 2 to 4 (growing batch, momentum).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lbtrain.errors import RecipeError
from lbtrain.recipe.durations import TableEntry

Rule = Literal["linear", "sqrt", "none"]


def scale_lr(
    base_lr: float,
    base_batch_size: int,
    batch_size: int,
    rule: Rule,
    *,
    momentum: float = 0.0,
    base_momentum: float | None = None,
) -> float:
    """The learning rate at `batch_size`, given the reference pair.

    linear: base_lr * B / B0 (Goyal et al. 2017, section 2.1); sqrt: base_lr * sqrt(B / B0); none: base_lr.
    `base_momentum` is the one that the reference pair was found with, if it differs from `momentum`: the rule
    then holds for the effective rate lr / (1 - momentum), so that under the linear rule B stays proportional
    to lr / (1 - momentum) (Smith et al. 2018, section 4).
    """
    ratio = batch_size / base_batch_size
    scaled = base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]
    return scaled if base_momentum is None else scaled * (1 - momentum) / (1 - base_momentum)


def from_table(table: Sequence[TableEntry], batch_size: int, name: str = "schedule.table") -> float:
    """Raises RecipeError for a batch size that is not in the table, or stands there twice."""
    rates = {entry.batch_size: entry.lr for entry in table}
    if len(rates) < len(table):
        raise RecipeError(f"{name} names a batch size twice")
    if batch_size not in rates:
        there = ", ".join(map(str, sorted(rates))) or "none"
        raise RecipeError(f"batch_size={batch_size} is not in {name}; those there: {there}")
    return rates[batch_size]


def warmup(
    progress: float,
    length: float,
    start_lr: float,
    peak_lr: float,
    form: Literal["gradual", "constant"] = "gradual",
) -> float:
    """The rate inside the warm-up, 0 <= progress < length: a straight line from start_lr, or start_lr
    throughout.
    """
    return start_lr if form == "constant" else start_lr + (peak_lr - start_lr) * progress / length


def step_decay(progress: float, milestones: tuple[float, ...], factors: tuple[float, ...]) -> float:
    """The factors of the milestones passed, multiplied; a milestone counts from the step that starts on
    it.
    """
    return math.prod(factors[: bisect_right(milestones, progress)])


def polynomial_decay(progress: float, power: float) -> float:
    """(1 - progress) ** power."""
    return (1 - progress) ** power


def cosine_decay(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of a run as a function of progress. All positions are shares of the run; what lies
    above 1 comes after its end.

    `step` milestones count from the start of the run (Goyal et al.); `poly` and `cosine` run to `decay_end`
    from `decay_start`: the end of the warm-up, so that the rate is continuous, or 0, as Caffe's poly policy
    under its ramp-up (You et al. 2017).
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
    decay_start: float | None = None
    """None: the end of the warm-up."""
    decay_end: float = 1.0
    end: float = 0.0
    """The rate at which `poly` and `cosine` end, and which stays from `decay_end` on."""

    def __call__(self, progress: float) -> float:
        if progress < self.warmup_length:
            return warmup(progress, self.warmup_length, self.warmup_start, self.peak, self.warmup_form)
        if self.decay == "step":
            return self.peak * step_decay(progress, self.milestones, self.factors)
        if self.decay == "none":
            return self.peak
        return self.end + (self.peak - self.end) * self._decayed(progress)

    def _decayed(self, progress: float) -> float:
        start = self.warmup_length if self.decay_start is None else self.decay_start
        rest = 1.0 if progress >= self.decay_end else (progress - start) / (self.decay_end - start)
        return polynomial_decay(rest, self.power) if self.decay == "poly" else cosine_decay(rest)


def crossed(before: float, after: float, every: float) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
