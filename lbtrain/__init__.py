"""Recipes and a library for large-minibatch training of vision models.

Start reading at `lbtrain.train`. The pieces work without it: `lbtrain.optim`, `lbtrain.plan.schedules`,
`lbtrain.data.stream`, `lbtrain.nn`.
"""

from lbtrain.main import main
from lbtrain.recipe import Recipe
from lbtrain.recipe.expectation import Expectation

__all__ = ["Expectation", "Recipe", "main"]
