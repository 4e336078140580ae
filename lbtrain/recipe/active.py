"""Which keys act in a recipe: most optimizers, models and data sets use some keys only.

A key's `needs` says when it acts: `optimizer.name=lars|lamb` where that key has one of these values,
`ema.decay` where it is set to anything but zero, `data.repeats>1` where it is more. Several conditions must
all hold; of those that ` or ` joins, one.
"""

from typing import Any

from lbtrain.recipe import tree


def lacking_keys(recipe: Any) -> dict[str, str]:
    """The keys that do nothing beside the other values of `recipe`, each with the condition that it lacks."""
    found = {key: _lacking(recipe, spec.metadata.get("needs", ())) for key, spec in tree.leaves(type(recipe))}
    return {key: condition for key, condition in found.items() if condition}


def inactive_keys(recipe: Any) -> dict[str, str]:
    """Those of the keys that do nothing whose value is not the default."""
    default = type(recipe)()
    return {
        key: condition
        for key, condition in lacking_keys(recipe).items()
        if tree.value_of(recipe, key) != tree.value_of(default, key)
    }


def _lacking(recipe: Any, needs: str | tuple[str, ...]) -> str:
    """The first condition that does not hold; empty if all do."""
    conditions = (needs,) if isinstance(needs, str) else needs
    return next((condition for condition in conditions if not _holds(recipe, condition)), "")


def _holds(recipe: Any, condition: str) -> bool:
    if " or " in condition:
        return any(_holds(recipe, each) for each in condition.split(" or "))
    if ">" in condition:
        key, _, bound = condition.partition(">")
        return bool(tree.value_of(recipe, key) > float(bound))
    key, _, values = condition.partition("=")
    value = tree.value_of(recipe, key)
    return str(value) in values.split("|") if values else bool(value)
