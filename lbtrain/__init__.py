"""Recipes and a library for large-minibatch training of vision models.

Start reading at `lbtrain.train`. The pieces work without it: `lbtrain.optim`, `lbtrain.plan.schedules`,
`lbtrain.data.stream`, `lbtrain.nn`.
"""

from pathlib import Path

from lbtrain.main import main
from lbtrain.recipe import Recipe
from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.files import RECIPES, load_recipe
from lbtrain.recipe.findings import BestBatch, Difference

__all__ = ["BestBatch", "Difference", "Expectation", "Recipe", "__version__", "load_recipe", "main"]
__version__ = "0.2.0"

if RECIPES.parent != Path(__file__).parent:  # a checkout: lbtrain.tools lies beside the library, not in it
    __path__.append(str(RECIPES.parent))
