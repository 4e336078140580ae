"""Models in numbers for the plans of many recipes, counted once for all that share them."""

from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.plan.statistics import ModelStatistics, model_statistics

_COUNTED: dict[str, ModelStatistics] = {}


def counted_once(recipe: Recipe) -> ModelStatistics:
    """By all that the numbers depend on, image sizes of the schedule included."""
    key = f"{recipe.model} {recipe.data} {recipe.optimizer} {recipe.schedule.image_sizes}"
    if key not in _COUNTED:
        _COUNTED[key] = model_statistics(recipe, dataset_info(recipe.data))
    return _COUNTED[key]
