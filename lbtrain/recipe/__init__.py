"""The recipe: every value an experiment consists of, typed and checked, and the result that it is expected to
reach.
"""

from lbtrain.recipe.active import inactive_keys
from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.schema import MAY_CHANGE_ON_RESUME, SAME_SCORE, Recipe, differences, keys
from lbtrain.recipe.sections import DataConfig, OptimizerConfig, ScheduleConfig
from lbtrain.recipe.tree import as_text, value_of, written

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "SAME_SCORE",
    "DataConfig",
    "Expectation",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "as_text",
    "differences",
    "inactive_keys",
    "keys",
    "value_of",
    "written",
]
