"""What a recipe file says of itself: its opening docstring, and the keys in which it differs from another."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from lbtrain.recipe.files import (
    contract_field,
    docstring_of,
    find_recipe,
    load_recipe,
    parents_of,
    syntax_tree,
)
from lbtrain.recipe.schema import Recipe

_SCORE = re.compile(
    r"(?:top-1 error|mask AP|box AP) (\d+\.\d+(?: ± \d+\.\d+)?) %|(\d+\.\d+ ± \d+\.\d+ epochs) to "
)
_PAPER = re.compile(r"[A-Z][\w']+ (?:et al\.|& [A-Z]\w+) \d{4}|detectron2")


@dataclass(frozen=True)
class Contract:
    """A recipe's row in a table of recipes."""

    name: str
    """FOLDER/NAME."""
    title: str
    batch: str
    """With a + where it changes during the run."""
    metric: str
    measured: str
    published: str
    """Mean, or mean ± standard deviation, in percent of the metric or in epochs; - without one."""
    source: str

    @classmethod
    def read(cls, path: Path) -> "Contract":
        doc = docstring_of(path)
        recipe = load_recipe(path)
        resized = any(point.batch_size for point in recipe.schedule.image_sizes)
        changes = recipe.schedule.batch_growth or recipe.absa.max_batch_size or resized
        return cls(
            name=f"{path.parent.name}/{path.stem}",
            title=re.sub(r" \([^()]*\d{4}[^()]*\)", "", doc.partition("\n\n")[0]).rstrip(".:"),
            batch=f"{recipe.batch_size:,}" + ("+" if changes else ""),
            metric=metric_of(recipe),
            measured=_score(contract_field(doc, "Measured")),
            published=_score(contract_field(doc, "Published")),
            source=_source(recipe, doc),
        )

    def matches(self, word: str) -> bool:
        return word.lower() in f"{self.name} {self.title} {self.source}".lower()


def metric_of(recipe: Recipe) -> str:
    """In which a recipe of this kind is scored, as its contract words it."""
    return f"{recipe.model.finds[0]} AP" if recipe.model.finds else "top-1 error"


def _score(text: str) -> str:
    found = _SCORE.match(text)
    return found[1] or found[2] if found else "diverged" if text.startswith("diverged") else "-"


def _source(recipe: Recipe, doc: str) -> str:
    """Who published the number: the repository's own name of GITHUB/NAME, or the paper; else the first paper
    that the recipe names.
    """
    if recipe.expect:
        return recipe.expect.source.partition(",")[0].rpartition("/")[2]
    papers = _PAPER.findall(" ".join(doc.split()))
    return papers[0] if papers else "-"


def parent_of(path: Path) -> Path | None:
    """The file that a recipe varies: what its `recipe` begins with is imported from there, or loaded by its
    name.
    """
    body = syntax_tree(path).body
    values = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}
    modules = {
        alias.asname or alias.name: node.module
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    node: ast.AST | None = ast.Name("recipe")
    while node:
        match node:
            case ast.Call(
                func=ast.Name(id="load_recipe") | ast.Attribute(attr="load_recipe"),
                args=[ast.Constant(value=str(name))],
            ):
                return find_recipe(name)
            case ast.Call(func=inner) | ast.Attribute(value=inner):
                node = inner
            case ast.Name(id=name) if (imported := path.with_name(f"{modules.get(name)}.py")).is_file():
                return imported
            case ast.Name(id=name):
                node = values.pop(name, None)
            case _:
                node = None
    return next(iter(parents_of(path)), None)
