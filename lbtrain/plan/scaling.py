"""What a recipe's scaling rules make of its batch: the peak rate, where the warm-up starts, how far the
schedule is stretched.
"""

import math
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.plan.schedules import lr_from_table, scale_lr
from lbtrain.recipe import Recipe, ScheduleConfig
from lbtrain.recipe.durations import TableEntry


def peak_lr(recipe: Recipe) -> float:
    """The rate at the end of the warm-up, by the recipe's rule. Raises RecipeError for a batch that its table
    does not know, and for a momentum of reference beside a table.
    """
    rate = recipe.schedule
    if rate.rule == "table":
        if rate.base_momentum is not None:
            raise RecipeError(
                "schedule.base_momentum is the momentum of the reference pair, and rule=table has none: "
                "leave it null"
            )
        return lr_from_table(_entries(rate), recipe.batch_size)
    pair: Any = rate.base_lr, rate.base_batch_size, recipe.batch_size, rate.rule
    return scale_lr(*pair, momentum=recipe.optimizer.momentum, base_momentum=rate.base_momentum)


def _entries(rate: ScheduleConfig) -> list[TableEntry]:
    return [TableEntry.parse(text, "schedule.table") for text in rate.table]


def warmup_start(rate: ScheduleConfig, peak: float) -> float:
    """The rate that the warm-up begins with: as told, or that of the small batch (Goyal et al. 2017, section
    2.2).
    """
    if rate.warmup_start_lr is not None:
        return rate.warmup_start_lr
    if rate.warmup_start_share is not None:
        return rate.warmup_start_share * peak
    reference = (
        min(_entries(rate), key=lambda entry: entry.batch_size).lr if rate.rule == "table" else rate.base_lr
    )
    return min(reference, peak)


def regime_factor(rate: ScheduleConfig, batch_size: int) -> int:
    """Hoffer et al. 2017, section 5: what lengths in epochs are multiplied by, so that the number of updates
    stays.
    """
    return math.ceil(batch_size / rate.base_batch_size) if rate.regime_adaptation else 1
