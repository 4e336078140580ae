"""Recipe files: those that come with lbtrain, by name, and anybody's own."""

import ast
import difflib
import re
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lbtrain.errors import RecipeError
from lbtrain.recipe import tree
from lbtrain.recipe.schema import Recipe
from lbtrain.recipe.sections.fields import Unassignable

_PACKAGE = Path(__file__).parents[1]
RECIPES = (_PACKAGE if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parent) / "recipes"
"""Inside the package where it is installed, beside it in a checkout."""


def shipped(root: Path = RECIPES) -> dict[str, Path]:
    """Every recipe of lbtrain by its name, such as imagenet/resnet50_8k: data sets in alphabetical order,
    resnet50 before resnet101, 8k before 16k.
    """
    files = sorted(root.glob("*/*.py"), key=lambda path: (path.parent.name, _natural(path.stem)))
    return {f"{path.parent.name}/{path.stem}": path for path in files}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, FOLDER/NAME of a shipped one, or NAME alone. Raises RecipeError with the
    nearest name.
    """
    known = shipped()
    by_stem = {path.stem: path for path in known.values()}
    if path := known.get(name) or by_stem.get(name):
        return path
    if Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, [*known, *by_stem], n=1)
    hint = f"did you mean {near[0]}?" if near else "`lbtrain recipes` lists those that come with lbtrain."
    raise RecipeError(f"{name} is neither a file nor a recipe of lbtrain: {hint}")


def load_recipe(name: str | Path) -> Recipe:
    """The `recipe` that a file defines, found by `find_recipe`; it may import its parent from the same
    folder. Raises RecipeError.

    A recipe of your own varies a shipped one with `load_recipe("imagenet/resnet50").vary(...)`.
    """
    path = find_recipe(str(name))
    folder, before = path.parent.resolve(), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except Exception as error:
        raise error_in_recipe_file(error, folder) from error
    finally:
        sys.path.remove(str(folder))
        _forget(set(sys.modules) - before, folder)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} defines no `recipe`: write `recipe = Recipe().vary(...)` there")
    return recipe


class RecipeFileError(RecipeError):
    """A mistake in a recipe file; the message ends with the file and the line."""


def error_in_recipe_file(error: Exception, folder: Path) -> RecipeFileError:
    """What a recipe of `folder`, or a parent of it there, has raised, as one line."""
    if isinstance(error, RecipeFileError):
        return error  # of a recipe that this one loads
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        (frame.filename, frame.lineno)
        for frame in frames
        if Path(frame.filename).resolve().parent == folder.resolve()
    ]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    file, line = places[-1] if places else (str(folder), 0)
    return RecipeFileError(f"{_said(error)} ({file}:{line})")


def _said(error: Exception) -> str:
    if isinstance(error, AttributeError) and isinstance(error.obj, Unassignable):
        try:
            tree.spec_of(type(error.obj), str(error.name))
        except RecipeError as unknown:
            return str(unknown)
    kind = "" if isinstance(error, RecipeError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def parents_of(path: Path) -> list[Path]:
    """The files of the same folder that a recipe imports, directly or through each other, nearest first.
    Raises RecipeError for a file that is no Python.
    """
    files = [path]
    for file in files:  # which grows meanwhile
        imports = [node for node in ast.walk(syntax_tree(file)) if isinstance(node, ast.ImportFrom)]
        parents = dict.fromkeys(file.with_name(f"{node.module}.py") for node in imports)
        files += [parent for parent in parents if parent.is_file() and parent not in files]
    return files[1:]


def docstring_of(path: Path) -> str:
    """The opening docstring of a recipe, its contract; empty without one."""
    return ast.get_docstring(syntax_tree(path)) or ""


def syntax_tree(path: Path) -> ast.Module:
    """Of a recipe file, in the encoding that it names. Raises RecipeError with the line of a syntax error."""
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise error_in_recipe_file(error, path.parent) from error


def does_nothing(path: Path) -> bool:
    """Whether a recipe file only defines, and trains nothing when it is run."""
    source = path.read_bytes()  # which may be in another encoding, and say so
    defining = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):  # which Python tells better
        return False
    return not re.search(rb"\bmain *\(|\bmain +as\b", source) and all(
        isinstance(node, defining) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def contract_field(doc: str, word: str) -> str:
    """What a recipe's opening docstring says behind `word` (Run, Published, Measured), continuation lines
    joined; empty without that field.
    """
    found = re.search(rf"^{word} +(\S.*(?:\n {{4,}}\S.*)*)$", doc, re.M)
    return " ".join(found[1].split()) if found else ""


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


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
