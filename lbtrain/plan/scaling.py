"""What a recipe's scaling rules make of its batch: the peak learning rate, where the warm-up starts, how far
the schedule is stretched.
"""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.plan.schedules import LearningRate, from_table, scale_lr
from lbtrain.recipe import OptimizerConfig, Recipe, ScheduleConfig
from lbtrain.recipe.durations import Duration


def learning_rate(recipe: Recipe, examples: Callable[[Duration], float], total: int) -> LearningRate:
    """The learning rate as a function of progress, the share of the `total` examples of the run; `examples`
    gives the length of a duration. Raises RecipeError for a batch that the recipe's table does not know, and
    for a decay that has ended when the warm-up does.
    """

    def share(duration: Duration, stretch: float = 1.0) -> float:
        # Divided last, as progress is: else rounding moves the end of a warm-up by a step.
        return examples(duration) * stretch / total

    rate, peak = recipe.schedule, peak_lr(recipe)
    form: Any = rate.warmup_form
    decay: Any = rate.decay
    stretch = recipe.batch_size / rate.base_batch_size if rate.warmup_rule == "linear" else 1
    made = LearningRate(
        peak=peak,
        warmup_start=warmup_start(rate, peak),
        warmup_length=share(rate.warmup, stretch),
        warmup_form=form,
        decay=decay,
        **(_steps(rate, share) if rate.decay == "step" else {}),
        power=rate.power,
        decay_start=0.0 if rate.decay_from == "start" else None,
        decay_end=share(rate.decay_until),
        end=rate.end_lr,
    )
    if made.decay_end <= made.warmup_length and made.decay_end < 1:
        raise RecipeError(
            f"schedule.decay_until={rate.decay_until} comes no later than the end of the warm-up "
            f"(schedule.warmup={rate.warmup}), where the rate would drop to schedule.end_lr at once. Choose "
            "a later schedule.decay_until, or a shorter schedule.warmup."
        )
    return made


def _steps(rate: ScheduleConfig, share: Callable[[Duration], float]) -> dict[str, Any]:
    """Where the rate falls, in order, and by which factors."""
    own = ((share(point.at), point.factor) for point in rate.milestones)
    falls = sorted((at, rate.factor if factor is None else float(factor)) for at, factor in own)
    return {"milestones": tuple(at for at, _ in falls), "factors": tuple(factor for _, factor in falls)}


def peak_lr(recipe: Recipe) -> float:
    """The rate at the end of the warm-up, by the recipe's rule. Raises RecipeError for a batch that its table
    does not know.
    """
    rate = recipe.schedule
    if rate.rule == "table":
        return from_table(rate.table, recipe.batch_size)
    pair: Any = rate.base_lr, rate.base_batch_size, recipe.batch_size, rate.rule
    return scale_lr(*pair, momentum=_momentum(recipe), base_momentum=rate.base_momentum)


def rate_factor(recipe: Recipe, batch_size: int) -> float:
    """By what the rate is multiplied while the batch has this size instead of the recipe's: what the recipe's
    rule makes of it. Raises RecipeError for a batch that its table does not know.
    """
    own = peak_lr(recipe)
    return peak_lr(dataclasses.replace(recipe, batch_size=batch_size)) / own if own else 1.0


def scaled_optimizer(recipe: Recipe) -> OptimizerConfig:
    """The optimizer's settings at the recipe's batch size: its momentum is that of the table, if there is
    one. Under the square-root rule the moments of AdamW and NAdamW follow the batch too, with k = batch_size
    / base_batch_size: 1 - beta is multiplied by k, and epsilon divided by sqrt(k) (Malladi et al. 2022,
    definition 5.2). Raises RecipeError where a beta would be negative.
    """
    config = dataclasses.replace(recipe.optimizer, momentum=_momentum(recipe))
    factor = recipe.batch_size / recipe.schedule.base_batch_size
    if recipe.schedule.rule != "sqrt" or config.name not in ("adamw", "nadamw"):
        return config
    # Of the decimals that were written: at k = 1 / (1 - beta), beta is 0 and not a trifle less.
    largest = recipe.schedule.base_batch_size / (
        1 - min(Fraction(str(b)) for b in (config.beta1, config.beta2))
    )
    beta1, beta2 = (1 - factor * (1 - beta) for beta in (config.beta1, config.beta2))
    if recipe.batch_size > largest:
        whole = largest // recipe.bn_batch_size * recipe.bn_batch_size
        smaller = f"batch_size={whole} or less, or " if whole else ""
        raise RecipeError(
            f"batch_size={recipe.batch_size} is {factor:g} times schedule.base_batch_size: under the "
            f"square-root rule optimizer.beta1 would become {beta1:g} and beta2 {beta2:g}. Use "
            f"{smaller}schedule.rule=none with betas of its own."
        )
    beta1, beta2 = max(0.0, beta1), max(0.0, beta2)
    return dataclasses.replace(config, beta1=beta1, beta2=beta2, eps=config.eps / factor**0.5)


def _momentum(recipe: Recipe) -> float:
    config = recipe.optimizer
    if not config.momentum_table:
        return config.momentum
    return from_table(config.momentum_table, recipe.batch_size, "optimizer.momentum_table")


def ema_decay(recipe: Recipe, batch_size: int) -> float:
    """Decay of the average of the weights per step of so many images: with k = batch_size / base_batch_size,
    the decay to the power of k (Busbridge et al. 2023, "How to scale your EMA", definition 1.2).
    """
    base = recipe.ema.base_batch_size
    return recipe.ema.decay ** (batch_size / base) if base else recipe.ema.decay


def warmup_start(rate: ScheduleConfig, peak: float) -> float:
    """The rate that the warm-up begins with: as set, or that of the small batch (Goyal et al. 2017, section
    2.2).
    """
    if rate.warmup_start_lr is not None:
        return rate.warmup_start_lr
    if rate.warmup_start_share is not None:
        return rate.warmup_start_share * peak
    smallest = (
        min(rate.table, key=lambda entry: entry.batch_size).lr if rate.rule == "table" else rate.base_lr
    )
    return min(smallest, peak)


def regime_factor(rate: ScheduleConfig, batch_size: int) -> int:
    """Hoffer et al. 2017, section 5: what lengths in epochs are multiplied by, so that the number of updates
    stays.
    """
    return math.ceil(batch_size / rate.base_batch_size) if rate.regime_adaptation else 1
