"""What a recipe file says of itself: its opening docstring, and the keys in which it differs from another."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from lbtrain.recipe.files import contract_field, find_recipe, load_recipe, parents_of
from lbtrain.recipe.schema import Recipe, keys

_NUMBER = re.compile(r"\d+\.\d+(?: (?:\+-|±) \d+\.\d+)?")


@dataclass(frozen=True)
class Contract:
    """A recipe's row in a table of recipes."""

    name: str
    """FOLDER/NAME."""
    title: str
    batch: str
    metric: str
    measured: str
    published: str
    """Mean, or mean ± standard deviation, in percent of the metric; - without one."""
    source: str

    @classmethod
    def read(cls, path: Path) -> "Contract":
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        recipe = load_recipe(path)
        grows = recipe.schedule.batch_growth or recipe.absa.max_batch_size
        return cls(
            name=f"{path.parent.name}/{path.stem}",
            title=re.sub(r" \([^()]*\d{4}[^()]*\)", "", doc.partition("\n\n")[0]).rstrip(".:"),
            batch=f"{recipe.batch_size:,}" + (", grows" if grows else ""),
            metric=metric_of(recipe),
            measured=_score(contract_field(doc, "Measured")),
            published=_score(contract_field(doc, "Published")),
            source=next(iter(re.findall(r"[A-Z][\w']+ (?:et al\.|& [A-Z]\w+) \d{4}", doc)), "-"),
        )

    def matches(self, word: str) -> bool:
        return word.lower() in f"{self.name} {self.title} {self.source}".lower()


def metric_of(recipe: Recipe) -> str:
    """In which a recipe of this kind is scored, as its contract words it."""
    return "top-1 error" if recipe.model.library == "timm" else "mask AP"


def _score(text: str) -> str:
    """The number of `top-1 error 23.74 ± 0.09 % (...)`; what is no number is one word."""
    if text.startswith("diverged"):
        return "diverged"
    found = _NUMBER.search(text.partition("%")[0]) if "%" in text.partition("(")[0] else None
    return found[0].replace("+-", "±") if found else "-"


def parent_of(path: Path) -> Path | None:
    """The file that a recipe varies: it imports the recipe from it, or loads it by its name."""
    for name in re.findall(r'load_recipe\("([^"]+)"\)', path.read_text()):
        return find_recipe(name)
    return next(iter(parents_of(path)), None)


def differences(before: Recipe, after: Recipe) -> Iterator[tuple[str, object, object]]:
    """Every key that differs, with its two values, in the order of `keys`."""
    for name, _ in keys():
        read = attrgetter(name)
        if read(before) != read(after):
            yield name, read(before), read(after)
