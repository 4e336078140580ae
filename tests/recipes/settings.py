"""The setting of every graded recipe, value by value, with the place where it is published: the rows of
published/settings.csv.

A row holds for its recipe and for those that are `like` it; rows of `*` hold for all. A source that begins
with "ours" says that the publication leaves the value open, and what was chosen.
"""

from collections.abc import Iterator
from functools import cache

from lbtrain.recipe import MAY_CHANGE_ON_RESUME, Recipe, inactive_keys, keys, written
from lbtrain.recipe.active import lacking_keys
from tests.recipes.tables import rows

OUTSIDE = MAY_CHANGE_ON_RESUME | {"seed", "data.format"}
"""Keys that do not belong to a setting."""
EXPECTED = ("metric", "value", "tolerance", "evaluations", "target")


@cache
def settings() -> dict[str, dict[str, str]]:
    """Recipe -> key -> the text of its value; rows of `*` and of the recipe that it is like included."""
    held: dict[str, dict[str, str]] = {}
    for row in rows("settings"):
        if row["key"] == "like":
            held[row["recipe"]] = dict(held[row["value"]])
        else:
            held.setdefault(row["recipe"], dict(held.get("*", {})))[row["key"]] = row["value"]
    return held


def acting_keys(recipe: Recipe) -> list[str]:
    """The keys of a setting that act in this recipe."""
    lacking = lacking_keys(recipe)
    return [key for key, _ in keys() if key not in OUTSIDE and key not in lacking]


def deviations(name: str, recipe: Recipe) -> Iterator[str]:
    """Every value of the recipe that is not what the table says, and every key that is set and does
    nothing.
    """
    held = settings()[name]
    found = {key: written(recipe, key) for key in acting_keys(recipe)}
    expected = {f"expect.{part}": getattr(recipe.expect, part) for part in EXPECTED}
    for key, value in (found | expected).items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if text != held.get(key):
            yield f"{key} is {text}, published: {held.get(key, 'in no row')}"
    yield from (f"{key} does nothing here" for key in inactive_keys(recipe) if key not in OUTSIDE)
