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
    folder, before = path.parent.resolve(), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    finally:
        sys.path.remove(str(folder))
        _forget(set(sys.modules) - before, folder)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} defines no `recipe`; recipes/ has examples")
    return recipe


def _forget(modules: set[str], folder: Path) -> None:
    """Lets go of those that lie in `folder`: a recipe of another folder may have a parent of the same name."""
    for name in modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
            del sys.modules[name]
