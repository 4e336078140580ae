"""Recipes and a library for large-minibatch training of vision models.

Start reading at `lbtrain.train`. The pieces work without it: `lbtrain.optim`, `lbtrain.schedules`, `lbtrain.sampling`, `lbtrain.nn`.
"""

from lbtrain.expectation import Expectation
from lbtrain.main import main
from lbtrain.recipe import Recipe

__all__ = ["Expectation", "Recipe", "main"]
