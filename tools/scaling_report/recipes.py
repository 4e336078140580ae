"""The recipe object of a recipe file."""

import runpy
import sys
from pathlib import Path

from lbtrain import Recipe
from lbtrain.errors import RecipeError


def load_recipe(path: Path) -> Recipe:
    """The `recipe` that the file defines; it may import its parent from the same folder. Raises RecipeError."""
    if not path.is_file():
        raise RecipeError(f"{path} is not a file: name a recipe, such as recipes/resnet50.py")
    sys.path.insert(0, str(path.parent))
    recipe = runpy.run_path(str(path)).get("recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} defines no `recipe`; recipes/ has examples")
    return recipe
