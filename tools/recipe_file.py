"""The recipe object of a recipe file."""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lbtrain import Recipe
from lbtrain.errors import RecipeError


def load_recipe(path: Path) -> Recipe:
    """The `recipe` that the file defines; it may import its parent from the same folder. Raises RecipeError."""
    if not path.is_file():
        raise RecipeError(f"{path} is not a file: name a recipe, such as recipes/imagenet/resnet50.py")
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


def contract_field(doc: str, word: str) -> str:
    """What a recipe's opening docstring says behind `word` (Run, Published, Measured), continuation lines
    joined; empty without that field.
    """
    found = re.search(rf"^{word} +(\S.*(?:\n {{4,}}\S.*)*)$", doc, re.M)
    return " ".join(found[1].split()) if found else ""


def _forget(modules: set[str], folder: Path) -> None:
    """Lets go of modules and packages that lie in `folder`: a recipe of another folder may have a parent of
    the same name.
    """
    own = {name for name in modules if "." not in name and folder in _places(sys.modules[name])}
    for name in modules:
        if name.partition(".")[0] in own:
            del sys.modules[name]


def _places(module: ModuleType) -> Iterator[Path]:
    """The folder that it was found in; several for a package without __init__.py."""
    for path in getattr(module, "__path__", None) or [getattr(module, "__file__", None)]:
        if path:
            yield Path(path).parent
