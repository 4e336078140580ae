"""How a global batch is split over ranks and micro-steps, and the phases of a run whose batch or image size
changes.

A growing batch in place of a falling rate: Smith et al. 2018, "Don't decay the learning rate, increase the
batch size", sections 3 and 4. Images that grow, in batches that shrink: fast.ai's entry to DAWNBench (Coleman
et al. 2019).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lbtrain.errors import RecipeError


@dataclass(frozen=True)
class BatchSplit:
    """How a global batch is split. batch_size = micro_batch_size * accumulation * world_size; a ghost batch
    spans `ranks_per_ghost` ranks.
    """

    micro_batch_size: int
    accumulation: int
    ranks_per_ghost: int


@dataclass(frozen=True)
class Phase:
    """A part of the run with one batch size and one image size. It starts at the step that begins when
    `start` examples were seen; None where that is decided during training.
    """

    start: int | None
    batch_size: int
    split: BatchSplit
    lr_factor: float = 1.0
    """By which the rate of the schedule is multiplied."""
    bn_momentum: float | None = None
    """Weight of a step's batch statistics in the running ones; None: each layer's own."""
    image_size: int | None = None
    """Pixels a side of its training images; None: as in evaluations."""

    @property
    def begins(self) -> float:
        """Where the plan alone lets it start."""
        return math.inf if self.start is None else self.start


def phase_starts(batch_size: int, growth: Sequence[tuple[float, Fraction]]) -> list[tuple[int, int]]:
    """(start, batch size) of each phase, both in examples, for `growth` as (position, factor): from the first
    step that begins at or after `position`, the batch is `factor` times what it was. A milestone of the
    learning rate counts from the same step.

    Growth points that fall into one step act together. Raises RecipeError where a batch would not be whole.
    """
    starts = [(0, batch_size)]
    for position, factor in sorted(growth):
        start, size = starts[-1]
        begins = start + max(0, math.ceil((position - start) / size)) * size
        if begins == start:
            starts.pop()
        if (size * factor).denominator > 1:
            raise RecipeError(
                f"schedule.batch_growth: {size} x {float(factor):g} is {float(size * factor):g}, which "
                "is not a whole number of images. Choose a factor that gives one."
            )
        starts.append((begins, int(size * factor)))
    return starts


def growth_to(batch_size: int, sizes: Sequence[tuple[float, int]]) -> list[tuple[float, Fraction]]:
    """`sizes`, the batch from each position on, as `phase_starts` takes them: by which factors the batch
    becomes them one after the other.
    """
    ordered = sorted(sizes)
    before = [batch_size, *(size for _, size in ordered)]
    return [(at, Fraction(size, old)) for (at, size), old in zip(ordered, before, strict=False)]


def steps_before(phases: Sequence[Phase], examples: float) -> float:
    """Optimizer steps that the first `examples` examples take; a fraction where they end inside a step."""
    ends = [phase.begins for phase in phases[1:]] + [math.inf]
    return sum(
        max(0, min(end, examples) - phase.begins) / phase.batch_size
        for phase, end in zip(phases, ends, strict=True)
    )


def split_batch(
    batch_size: int,
    world_size: int,
    ghost: int,
    *,
    micro: int = 0,
    max_micro: int = 0,
    unit: int = 1,
    group: int = 1,
    whole: bool = False,
    key: str = "batch_size",
) -> BatchSplit:
    """The split with the largest allowed micro-batch, a multiple of `unit` images, of a batch that holds
    whole groups of `group` images; a group may span ranks. `whole`: the ghost batch is the whole batch,
    whatever its size. `key`: what gives the batch its size.

    Raises RecipeError, naming the nearest batch and world sizes that can be split.
    """

    def best(size: int, ranks: int) -> BatchSplit | None:
        if size % group:
            return None
        return _best_split(size, ranks, size if whole else ghost, micro, max_micro, unit)

    if split := best(batch_size, world_size):
        return split
    own = key == "batch_size"
    batches = _nearest(batch_size, lambda size: best(size, world_size))
    worlds = _nearest(world_size, lambda size: best(batch_size, size))
    ranks = f"{world_size} ranks" if world_size > 1 else "1 rank"
    losses = f" and whole losses of loss_batch_size={unit}" if unit > 1 else ""
    groups = f" and the groups of bn_batch_size={group} in which images are mixed or repeated"
    norm = "one batch of model.batch_norm=sync" if whole else f"ghost batches of bn_batch_size={ghost}"
    parts = f"{norm}{losses}{groups if group > 1 else ''}"
    bound = f" with max_micro_batch_size={max_micro}" if max_micro else ""
    bound = f" with micro_batch_size={micro}" if micro else bound
    remedies = [
        f"Nearest valid {'batch_size' if own else 'batches'} on {ranks}: {', '.join(map(str, batches))}."
        if batches
        else "",
        f"Nearest valid numbers of ranks for this batch: {', '.join(map(str, worlds))}." if worlds else "",
    ]
    size = "Use model.batch_norm=ghost, or change" if whole else "Change bn_batch_size or"
    change = f"{size} {'max_' if max_micro and not micro else ''}micro_batch_size."
    raise RecipeError(
        f"{'batch_size=' if own else f'{key}: a batch of '}{batch_size} cannot be split over {ranks} into "
        f"{parts}{bound}. "
        f"{' '.join(filter(None, remedies)) or change}"
    )


def _best_split(
    batch_size: int, world_size: int, ghost: int, micro: int, max_micro: int, unit: int
) -> BatchSplit | None:
    if batch_size % world_size or batch_size % ghost:
        return None
    per_rank = batch_size // world_size
    limit = min(per_rank, max_micro or per_rank)
    for size in [micro] if micro else range(limit, 0, -1):
        holds_whole_ghosts = size % ghost == 0
        shares_a_ghost = ghost % size == 0 and (world_size * size) % ghost == 0
        if per_rank % size == 0 and size % unit == 0 and (holds_whole_ghosts or shares_a_ghost):
            return BatchSplit(size, per_rank // size, max(1, ghost // size))
    return None


def _nearest(size: int, works: Any) -> list[int]:
    """The nearest sizes below and above that work, searched up to ten times the size, or to 4,096 where that
    is more, and over 20,000 sizes at most.
    """
    below = next((candidate for candidate in range(size - 1, 0, -1) if works(candidate)), None)
    above = next(
        (
            candidate
            for candidate in range(size + 1, min(max(10 * size, 4_096), size + 20_000))
            if works(candidate)
        ),
        None,
    )
    return [candidate for candidate in (below, above) if candidate]
