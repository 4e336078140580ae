"""The recipe: every value an experiment consists of, typed and checked, and the result that it is expected to
reach.
"""

from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.schema import (
    MAY_CHANGE_ON_RESUME,
    DataConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    keys,
)

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "DataConfig",
    "Expectation",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "keys",
]
