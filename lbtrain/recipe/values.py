"""Values of a recipe: what a word of a command line means for a key of some type, and whether a key takes a
value.

The rule is that a run never has another value than the one that was written: what Python or YAML would read
leniently (1_0, 010, yes, 1e-400) is an error.
"""

import contextlib
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from lbtrain.errors import RecipeError
from lbtrain.recipe.durations import BatchGrowth, Duration, Milestone, TableEntry


def _pixels(text: str, name: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise RecipeError(
            f"{name}={text}: {name} takes whole numbers of pixels from 1 to 99999, such as 640,800"
        )
    return int(text)


def _level(text: str, name: str) -> float:
    try:
        value = _number(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RecipeError(f"{name}={text}: {name} takes numbers from 0 to 1, such as 0.485,0.456,0.406")
    return value


_FORMS: dict[str, Callable[[str, str], object]] = {
    "duration": Duration.parse,
    "milestone": Milestone.parse,
    "growth": BatchGrowth.parse,
    "table": TableEntry.parse,
    "pixels": _pixels,
    "level": _level,
}
"""What reads, and so checks, a text of some form."""


def from_text(text: str, kind: Any, name: str) -> Any:
    """The value that a word of a command line means, by the type of its key."""
    if isinstance(kind, types.UnionType):
        return None if text in ("null", "none") else from_text(text, kind.__args__[0], name)
    readers: dict[Any, Callable[[str], Any]] = {
        int: _whole_number,
        float: _number,
        bool: _truth,
        list: _list,
        dict: _mapping,
        str: str,
    }
    try:
        return readers[typing.get_origin(kind) or kind](text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{name}={text}: {name} takes {_kind_words(kind)}") from error


def _whole_number(text: str) -> int:
    # Python alone would also take 1_0, surrounding blanks and the digits of any script.
    if not re.fullmatch(r"[-+]?[0-9]+", text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        raise ValueError(text)
    value = float(text)
    # 1e-400 would become 0, another value than the one written.
    if not value and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise ValueError(text)
    return value


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _list(text: str) -> list[str]:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts) or any(bracket in text for bracket in "[]"):
        raise ValueError(text)
    return parts


def _mapping(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        raise ValueError(text)
    return mapping_from_yaml(text)


def mapping_from_yaml(text: str) -> dict[str, Any]:
    """A mapping and what is in it, read as strictly as a word of a command line. Raises ValueError,
    RecursionError or yaml.YAMLError.
    """
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it is no mapping of keys to values")
    _check_written_once(node, set())
    return typing.cast(dict[str, Any], _from_node(node))


def _check_written_once(node: yaml.Node, seen: set[int]) -> None:
    """An alias may stand for a scalar. Of lists or mappings, ten lines of them make a value of any size."""
    if isinstance(node, yaml.ScalarNode):
        return
    if id(node) in seen:
        raise ValueError("it has an alias of a list or a mapping, write the value itself")
    seen.add(id(node))
    for item in node.value:
        for each in item if isinstance(item, tuple) else (item,):
            _check_written_once(each, seen)


def _from_node(node: yaml.Node) -> Any:
    """YAML's meaning, but of the plain words only true, false, null and decimal numbers are more than text
    (not yes, 010, 1:30).
    """
    if not re.fullmatch(r"tag:yaml\.org,2002:(map|seq|str)", node.tag):
        raise ValueError(node.tag)
    if isinstance(node, yaml.MappingNode):
        values = {_key_text(key): _from_node(value) for key, value in node.value}
        if len(values) < len(node.value):
            raise ValueError("a key stands there twice")
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(item) for item in node.value]
    return node.value if node.style else _plain(node.value)


def _key_text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("a key is text")
    return str(node.value)


def _plain(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    if not text:
        raise ValueError("a key without a value")
    for read in (_whole_number, _number):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def _kind_words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_kind_words(kind.__args__[0])} or null"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind) or (
        "{key: value, ...}" if typing.get_origin(kind) is dict else "a list such as a,b,c"
    )


def checked(value: Any, spec: dataclasses.Field[Any], name: str) -> Any:
    """`value` in its key's own type, or a RecipeError that names the key, the value and the remedy."""
    kind: Any = spec.type
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = kind.__args__[0]
    base = typing.get_origin(kind) or kind
    if base is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not base or (
        base is list and not all(type(item) is kind.__args__[0] for item in value)
    ):
        raise RecipeError(f"{name}={value!r}: {name} takes {_kind_words(spec.type)}")
    if base is dict:
        _check_argument(value, name)
        return value
    for item in value if base is list else [value]:
        _check_range(item, spec.metadata, name)
    return value


def _check_argument(value: Any, name: str) -> None:
    """An argument of a model: what YAML and JSON can hold, and nothing that they would change."""
    if isinstance(value, list):
        for item in value:
            _check_argument(item, name)
    elif isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise RecipeError(f"{name}={value!r}: the names of arguments are text")
        _check_argument([*value, *value.values()], name)
    elif value is None or type(value) in (bool, int, float, str):
        _check_range(value, {}, name)
    else:
        raise RecipeError(
            f"{name}: {value!r} is a {type(value).__name__}; write text, numbers, true, false, null, lists "
            f"or {{key: value}}"
        )


def _check_text(text: str, name: str) -> None:
    if "${" in text or text == "???":
        raise RecipeError(f"{name}={text}: interpolation is not supported, write the value itself")
    if not text.isprintable():
        raise RecipeError(f"{name}={text!r}: holds a character that cannot be printed")


def _check_range(value: Any, checks: Mapping[str, Any], name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{name}={value}: {name} takes a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RecipeError(f"{name}: {name} takes a whole number below 2**63")
    if isinstance(value, str):
        _check_text(value, name)
    if "choices" in checks and value not in checks["choices"]:
        near = difflib.get_close_matches(str(value), [str(choice) for choice in checks["choices"]], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RecipeError(f"{name}={value}: {name} is one of {', '.join(map(str, checks['choices']))}{hint}")
    for word, parse in _FORMS.items():
        if checks.get(word):
            parse(value, name)
    bounds = {
        "at_least": value.__class__.__ge__,
        "above": value.__class__.__gt__,
        "below": value.__class__.__lt__,
        "at_most": value.__class__.__le__,
    }
    for word, holds in bounds.items():
        if word in checks and not holds(value, type(value)(checks[word])):
            raise RecipeError(f"{name}={value}: {name} must be {word.replace('_', ' ')} {checks[word]}")
