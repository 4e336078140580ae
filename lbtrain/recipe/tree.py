"""A tree of typed keys: walked, read, checked against what it is to become, and copied with differences."""

import contextlib
import copy
import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from lbtrain.errors import RecipeError
from lbtrain.recipe.values import checked_value, flow_text, from_text, plain_value, plain_words

Config = TypeVar("Config")
Tree = dict[str, Any]

ELSEWHERE = {
    "epochs": "duration={}ep",
    "num_epochs": "duration={}ep",
    "max_epochs": "duration={}ep",
    "steps": "duration={}it",
    "max_steps": "duration={}it",
    "iterations": "duration={}it",
    "lr": "schedule.base_lr={}",
    "learning_rate": "schedule.base_lr={}",
    "lr_schedule": "schedule.decay={}",
    "warmup_epochs": "schedule.warmup={}ep",
    "opt": "optimizer.name={}",
    "amp": "precision=bf16",
}
"""What other training scripts call a key, and what to write here."""


def fields(config_type: Any) -> dict[str, "dataclasses.Field[Any]"]:
    return {spec.name: spec for spec in dataclasses.fields(config_type) if "hidden" not in spec.metadata}


def leaves(config_type: Any, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every leaf key with its dotted name, in the order of the file."""
    for name, spec in fields(config_type).items():
        if _is_group(spec):
            yield from leaves(spec.type, f"{prefix}{name}.")
        else:
            yield prefix + name, spec


def _is_group(spec: "dataclasses.Field[Any]") -> bool:
    return dataclasses.is_dataclass(spec.type) and not hasattr(spec.type, "parse")


def value_of(config: Any, key: str) -> Any:
    return attrgetter(key)(config)


def written(config: Any, key: str) -> str:
    """The value of a key as one would write it in an override."""
    return as_text(value_of(config, key))


def as_text(found: Any) -> str:
    if isinstance(found, list):
        return ",".join(map(str, found))
    if isinstance(found, dict):
        return flow_text(found)
    return "null" if found is None else str(found).lower() if isinstance(found, bool) else str(found)


def plain(config: Any) -> Tree:
    """The tree of keys, with nothing but what JSON and YAML hold: durations are text."""
    return {
        name: plain(getattr(config, name)) if _is_group(spec) else plain_value(getattr(config, name))
        for name, spec in fields(type(config)).items()
    }


def nested(by_key: Mapping[str, Any]) -> Tree:
    """A tree from values by dotted name."""
    made: Tree = {}
    for key, found in by_key.items():
        *parents, leaf = key.split(".")
        branch = made
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = found
    return made


def checked(root: Any, changes: Mapping[str, Any], prefix: str = "") -> Tree:
    """`changes` with each value in its key's own type. Raises RecipeError, naming key, value and a suggested
    fix.
    """
    config_type = root
    for part in prefix.split(".")[:-1]:
        config_type = fields(config_type)[part].type
    known = fields(config_type)
    made: Tree = {}
    for name, found in changes.items():
        spec = known.get(name)
        if spec is None:
            spec_of(root, f"{prefix}{name}", found)  # rejects an unknown key
            raise RecipeError(
                f"{prefix}{name}: give the keys of a group as a dict, {_as_dicts(name, found)}."
            )
        if not _is_group(spec):
            made[name] = checked_value(found, spec, prefix + name)
        elif isinstance(found, Mapping):
            made[name] = checked(root, found, f"{prefix}{name}.")
        else:
            raise RecipeError(f"{prefix}{name} is a group of keys: give a dict of them, not {found!r}.")
    return made


def _as_dicts(name: str, found: Any) -> str:
    """A dotted name with its value, as `vary` takes it."""
    *groups, leaf = name.split(".")
    return "".join(f"{group}=dict(" for group in groups) + f"{leaf}={found!r}" + ")" * len(groups)


def flat(config_type: Any, changes: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names in a tree of changes. A dict of arguments counts as one key."""
    known = fields(config_type)
    for name, found in changes.items():
        if _is_group(known[name]):
            yield from flat(known[name].type, found, f"{prefix}{name}.")
        else:
            yield prefix + name


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with `changes`, of which nothing is shared with `config` or with `changes`."""
    groups = [name for name, spec in fields(type(config)).items() if _is_group(spec)]
    values = {
        name: replaced(getattr(config, name), changes.get(name, {}))
        if name in groups
        else copy.deepcopy(changes.get(name, getattr(config, name)))
        for name in fields(type(config))
    }
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def parsed_words(config: Any, words: Sequence[str]) -> Tree:
    """The changes that `key=value` words ask for. `a.b.c=value` below a key that takes {key: value} adds one
    argument to those that are there. Raises RecipeError.
    """
    root = type(config)
    mappings = [key for key, spec in leaves(root) if typing.get_origin(spec.type) is dict]
    found: dict[str, Any] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator:
            raise RecipeError(
                f"{word!r} is not an override. Write key=value, for example batch_size=512 (--help lists the "
                "keys)."
            )
        mapping = next((key for key in mappings if name.startswith(f"{key}.")), "")
        if mapping:
            arguments = copy.deepcopy(found.get(mapping, value_of(config, mapping)))
            _put(arguments, name.removeprefix(f"{mapping}.").split("."), plain_words(text, name), name)
            found[mapping] = arguments
        else:
            found[name] = from_text(text, spec_of(root, name, text).type, name)
    return nested(found)


def _put(arguments: Tree, path: list[str], found: Any, name: str) -> None:
    for part in path[:-1]:
        arguments = arguments.setdefault(part, {})
        if not isinstance(arguments, dict):
            raise RecipeError(
                f"{name}: {part} is set to {arguments!r} already and takes no arguments of its own."
            )
    arguments[path[-1]] = found


def spec_of(root: Any, name: str, found: Any = "...") -> "dataclasses.Field[Any]":
    """The key of that dotted name. Raises RecipeError, with the nearest key, if there is none."""
    known = dict(leaves(root))
    if name in known:
        return known[name]
    inside = [key for key in known if key.startswith(f"{name}.")]
    if inside:
        raise RecipeError(f"{name} is a group of keys. Set one of {', '.join(inside)}.")
    raise RecipeError(f"{name!r} is not a key of a recipe{_did_you_mean(root, name, list(known), found)}")


def _accepted(root: Any, template: str, found: Any) -> str:
    """The setting with the value that was given, which may have its unit already; its key alone where the
    value is none of that key.
    """
    key = template.partition("=")[0]
    spec = dict(leaves(root))[key]
    for setting in (template.format(found), f"{key}={found}"):
        text = setting.partition("=")[2]
        with contextlib.suppress(RecipeError):
            checked_value(from_text(text, spec.type, key), spec, key)
            return setting
    return key


def _did_you_mean(root: Any, name: str, known: list[str], found: Any) -> str:
    """The nearest key by spelling, also when only its last part was given (`momentum` for
    `optimizer.momentum`).
    """
    elsewhere = ELSEWHERE.get(name.rpartition(".")[2])
    if elsewhere:
        return f": did you mean {_accepted(root, elsewhere, found)}?"
    spelled = {key.rpartition(".")[2]: key for key in reversed(known)} | {key: key for key in known}
    near = difflib.get_close_matches(name, spelled, n=1, cutoff=0.7) or difflib.get_close_matches(
        name.rpartition(".")[2], spelled, n=1
    )
    return f": did you mean {spelled[near[0]]}?" if near else " (--help lists the keys)."
