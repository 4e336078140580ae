"""The phases of a run: where its batch and its image size change, and to what."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

from lbtrain.plan.batching import Phase, growth_to, phase_starts, split_batch
from lbtrain.plan.scaling import rate_factor
from lbtrain.recipe import Recipe
from lbtrain.recipe.durations import Duration


def make_phases(
    recipe: Recipe, world_size: int, ghost: int, total: int, scheduled: Callable[[Duration], float]
) -> tuple[Phase, ...]:
    """All phases of a run of `total` examples; `scheduled` gives a duration in examples, `ghost` is the size
    of a batch-norm batch. Raises RecipeError if the batch of any phase cannot be split.
    """
    sizes = [(scheduled(point.at), point.pixels) for point in recipe.schedule.image_sizes]
    split = partial(
        split_batch,
        world_size=world_size,
        ghost=ghost,
        micro=recipe.micro_batch_size,
        max_micro=recipe.max_micro_batch_size,
        unit=recipe.loss_batch_size,
        group=recipe.bn_batch_size if mixes_images(recipe) or recipe.data.repeats > 1 else 1,
        whole=recipe.model.batch_norm == "sync" and ghost > 1,
    )
    # A batch that adapts grows when the model says so; its rate grows with it.
    adaptive = [
        (None, size, size / recipe.batch_size)
        for size in _doublings(recipe.batch_size, recipe.absa.max_batch_size)
    ]
    return tuple(
        Phase(
            start,
            size,
            split(size, key=_source(recipe, start, size)),
            factor,
            _bn_momentum(recipe, size / ghost),
            None if start is None else _size_at(start, sizes),
        )
        for start, size, factor in [*_planned(recipe, total, scheduled), *adaptive]
    )


def _source(recipe: Recipe, start: int | None, size: int) -> str:
    """The key that gives a phase its batch size."""
    if size == recipe.batch_size:
        return "batch_size"
    if start is None:
        return "absa.max_batch_size"
    return "schedule.batch_growth" if recipe.schedule.batch_growth else "schedule.image_sizes"


def mixes_images(recipe: Recipe) -> bool:
    """Whether images get partners within groups of bn_batch_size, which are loaded whole."""
    return bool(recipe.loss.mixup or recipe.loss.cutmix)


def _planned(
    recipe: Recipe, total: int, scheduled: Callable[[Duration], float]
) -> list[tuple[int | None, int, float]]:
    """(start, batch size, factor of the rate) of each phase that the recipe alone decides."""
    points = [(scheduled(point.at), Fraction(point.factor)) for point in recipe.schedule.batch_growth]
    sizes = recipe.schedule.image_sizes
    points += growth_to(
        recipe.batch_size, [(scheduled(size.at), size.batch_size or recipe.batch_size) for size in sizes]
    )
    # The rate does not follow a batch that grows in its place.
    follows = any(size.batch_size for size in sizes)
    return [
        (start, size, rate_factor(recipe, size) if follows else 1.0)
        for start, size in phase_starts(recipe.batch_size, points)
        if start < total
    ]


def _size_at(start: int, sizes: list[tuple[float, int]]) -> int | None:
    return next((pixels for at, pixels in sorted(sizes, reverse=True) if at <= start), None)


def _bn_momentum(recipe: Recipe, ghosts: float) -> float:
    """Weight of a step's statistics in the running ones. Hoffer et al. 2017, algorithm 1, moves them once a
    ghost batch: what they were then keeps (1 - momentum) ** ghosts.
    """
    per_ghost = recipe.bn_update == "ghost_batch"
    return 1 - (1 - recipe.bn_momentum) ** ghosts if per_ghost else recipe.bn_momentum


def _doublings(size: int, most: int) -> list[int]:
    """Twice the size, and so on, up to `most`."""
    sizes = []
    while size < most:
        size = min(2 * size, most)
        sizes.append(size)
    return sizes
