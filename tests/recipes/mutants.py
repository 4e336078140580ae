"""Changes every value of every graded recipe by 10 %, one at a time and in memory, and counts the changes
that the table of published settings notices.

    python -m tests.recipes.mutants    a row per recipe: how many changes, how many noticed (make mutants)
"""

import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from lbtrain.recipe import Recipe, keys, tree, value_of
from lbtrain.recipe.durations import Duration
from lbtrain.recipe.files import load_recipe, shipped
from tests.recipes.settings import EXPECTED, acting_keys, deviations


def graded() -> dict[str, Recipe]:
    """Every recipe that is held to a published number, by its name without the folder."""
    found = {path.stem: load_recipe(path) for path in shipped().values()}
    return {name: recipe for name, recipe in found.items() if recipe.expect}


def mutants(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Every acting key with copies of the recipe in which it alone has another value. Values are not checked:
    what the recipe's own checks would reject is a change too.
    """
    specs = dict(keys())
    for key in acting_keys(recipe):
        choices = specs[key].metadata.get("choices", ())
        for value in changed(value_of(recipe, key), choices):
            yield key, tree.replaced(recipe, tree.nested({key: value}))
    for part in EXPECTED:
        for value in changed(getattr(recipe.expect, part), ()):
            expect = dataclasses.replace(recipe.expect, **{part: value})
            yield f"expect.{part}", dataclasses.replace(recipe, expect=expect)


def changed(value: Any, choices: tuple[Any, ...]) -> Iterator[Any]:
    """`value` 10 % larger and smaller; of a zero 0.1; of a list each item changed, removed or added; of a
    word every other choice.
    """
    if value is None or isinstance(value, bool):
        yield 0.1 if value is None else not value
    elif isinstance(value, int):
        yield from (value + max(1, value // 10), value - max(1, value // 10))
    elif isinstance(value, float | Decimal):
        step = value / 10 or type(value)("0.1")
        yield from (value + step, value - step)
    elif isinstance(value, str):
        yield from (choice for choice in choices or [f"{value}x"] if choice != value)
    elif isinstance(value, Duration):
        yield from (dataclasses.replace(value, value=length) for length in changed(value.value, ()))
    elif isinstance(value, dict):
        yield value | {"another": 1}
    else:
        yield from _lists(value)


def _lists(value: list[Any]) -> Iterator[list[Any]]:
    yield [*value, *value[:1]] or ["another"]
    for place, item in enumerate(value):
        yield value[:place] + value[place + 1 :]
        yield from ([*value[:place], other, *value[place + 1 :]] for other in _items(item))


def _items(item: Any) -> Iterator[Any]:
    """A text, or a milestone, growth of the batch or image size part by part."""
    if isinstance(item, str):
        yield f"{item}x"
        return
    for part in dataclasses.fields(item):
        for value in changed(getattr(item, part.name), ()):
            yield dataclasses.replace(item, **{part.name: value})


def score() -> dict[str, tuple[int, list[str]]]:
    """Recipe -> how many changes were made, and the keys of those that no row noticed."""
    found = {}
    for name, recipe in graded().items():
        made = [(key, list(deviations(name, mutant))) for key, mutant in mutants(recipe)]
        found[name] = len(made), [key for key, noticed in made if not noticed]
    return found


def main() -> int:
    table = Table("recipe", "changes", "noticed", "unnoticed")
    results = score()
    for name, (made, survived) in results.items():
        table.add_row(name, str(made), str(made - len(survived)), ", ".join(survived) or "-")
    total, missed = (sum(number) for number in zip(*((m, len(s)) for m, s in results.values()), strict=True))
    table.add_row("all", str(total), str(total - missed), str(missed))
    Console().print(table)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
