"""What needs another split of the batch over ranks and micro-batches, with a split that has it."""

import contextlib
import math
from collections.abc import Sequence

from lbtrain.errors import RecipeError
from lbtrain.plan.batching import Phase, split_batch
from lbtrain.recipe import Recipe


def check_noise_scale(
    recipe: Recipe, engine: str, phases: Sequence[Phase], world_size: int, ghost: int
) -> None:
    """Raises RecipeError where measure.noise_scale is set and this split does not show the noise: it shows
    between the gradients of two batch sizes, and the smaller must be a batch that could stand alone.
    """
    if not recipe.measure.noise_scale:
        return
    name, stage = f"measure.noise_scale={recipe.measure.noise_scale}", recipe.zero_stage_under(engine)
    if any(phase.split.ranks_per_ghost > 1 for phase in phases):
        raise RecipeError(
            f"{name} needs per-rank gradients, but a batch-norm batch spans several ranks here. Use "
            f"{_own_ghosts(recipe, phases, world_size, ghost)}."
        )
    if engine == "colossalai" and stage and recipe.optimizer.clip_norm:
        raise RecipeError(
            f"{name} needs gradients before clipping, which ColossalAI does not show at ZeRO stage {stage}. "
            "Use colossalai.zero_stage=0, or optimizer.clip_norm=0."
        )
    if any(phase.split.accumulation * world_size == 1 for phase in phases):
        _check_noise_of_one_micro_batch(recipe, stage, name, phases, ghost)


def _check_noise_of_one_micro_batch(
    recipe: Recipe, stage: int, name: str, phases: Sequence[Phase], ghost: int
) -> None:
    """A part of the batch is passed through a second time, in each phase that has one micro-batch."""
    smallest = min(phase.batch_size for phase in phases if phase.split.accumulation == 1)
    part = _largest_part(smallest)
    own = "model.batch_norm=ghost " if recipe.model.batch_norm == "sync" else ""
    losses = f" loss_batch_size={part}" if math.lcm(part, recipe.loss_batch_size) == smallest else ""
    if smallest == ghost:
        remedy = f"{own}bn_batch_size={part}{losses}" if part < ghost else "a larger batch_size"
        raise RecipeError(
            f"{name} needs a part of the batch, but one rank has a single batch-norm batch of {ghost} "
            f"images. Use {remedy}."
        )
    if smallest == math.lcm(ghost, recipe.loss_batch_size):
        raise RecipeError(
            f"{name} needs a part of the batch, but on one rank batch_size={smallest} has no part "
            f"that holds whole batch-norm batches (bn_batch_size={ghost}) and whole losses "
            f"(loss_batch_size={recipe.loss_batch_size}). Use bn_batch_size={part} loss_batch_size={part}."
        )
    if stage == 3:
        common = math.gcd(*(phase.batch_size for phase in phases))
        split = split_batch(common, 1, ghost, max_micro=smallest - 1, unit=recipe.loss_batch_size)
        raise RecipeError(
            f"{name} on one rank at ZeRO stage 3 needs several micro-batches per step. Set "
            f"micro_batch_size={split.micro_batch_size}."
        )


def _largest_part(size: int) -> int:
    """The largest number of images below `size` that divides it."""
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), size)


def _own_ghosts(recipe: Recipe, phases: Sequence[Phase], world_size: int, ghost: int) -> str:
    """What gives each rank whole batch-norm batches."""
    micro = math.gcd(*(phase.split.micro_batch_size for phase in phases))
    if recipe.model.batch_norm == "sync":
        return f"model.batch_norm=ghost bn_batch_size={micro}"
    if not 0 < recipe.max_micro_batch_size < ghost:
        with contextlib.suppress(RecipeError):
            for phase in phases:
                split_batch(phase.batch_size, world_size, ghost, micro=ghost, unit=recipe.loss_batch_size)
            return f"micro_batch_size={ghost}, or fewer ranks"
    return f"bn_batch_size={micro}, or fewer ranks"


def check_compile(recipe: Recipe, engine: str, phases: Sequence[Phase], world_size: int, ghost: int) -> None:
    """Raises RecipeError for what torch.compile is not known to do alike."""
    ranks_per_ghost = max(phase.split.ranks_per_ghost for phase in phases)
    reasons = {
        f"model.library={recipe.model.library}: the heads of a detector depend on what is found": (
            recipe.model.library != "timm"
        ),
        "engine=colossalai. Use engine=ddp, accelerate or deepspeed": engine == "colossalai",
        "deepspeed.zero_stage=3, which gathers weights layer by layer. Use stage 0, 1 or 2": (
            recipe.zero_stage_under(engine) == 3
        ),
        "absa.max_batch_size: compiled code has no second derivatives": bool(recipe.absa.max_batch_size),
        f"a batch-norm batch over {ranks_per_ghost} ranks, whose exchange is not compiled. Use "
        f"{_own_ghosts(recipe, phases, world_size, ghost)}": ranks_per_ghost > 1,
    }
    for reason, holds in reasons.items():
        if recipe.compile and holds:
            raise RecipeError(f"compile=true does not go with {reason}.")
