"""Values of a recipe: what a word of a command line or a node of YAML means, and whether a key takes a value.

The rule is that a run never has another value than the one that was written: what Python or YAML would read
leniently (1_0, 010, yes, 1e-400) is rejected.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from lbtrain.errors import RecipeError

_POLICY = (
    r"|rand(-(m|n|mmax)\d{1,9}|-inc[01]|-(p|mstd)\d+(\.\d+)?|-t(weights|3aw?))*"
    r"|(originalr?|v0r?|3a)(-mstd\d+(\.\d+)?)?|ta_wide"
)
"""What timm and torchvision know as a policy; timm ignores or asserts away what it cannot read. It has no
magnitude of hundreds of digits.
"""


def from_text(text: str, kind: Any, name: str) -> Any:
    """The value that a word of a command line means, by the type of its key."""
    if isinstance(kind, types.UnionType):
        return None if text.lower() in ("null", "none") else from_text(text, kind.__args__[0], name)
    readers: dict[Any, Callable[[str], Any]] = {
        int: _whole_number,
        float: _number,
        bool: _truth,
        list: _list,
        dict: _mapping,
    }
    try:
        return readers.get(typing.get_origin(kind) or kind, str)(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{name}={text}: {name} takes {_kind_words(kind)}.") from error


def plain_words(text: str, name: str) -> Any:
    """The value of one argument of a model: text, a number, true, false or null; a list as 1,2 or [1, 2]; a
    mapping as {key: value}.
    """
    try:
        brackets = text[:1] in ("[", "{", "'", '"')
        return _list_of_plain(text) if "," in text and not brackets else _from_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(
            f"{name}={text}: {name} takes text, a number, true, false, null, a list such as 1,2 or {{key: "
            f"value}}."
        ) from error


def mapping_from_yaml(text: str) -> dict[str, Any]:
    """A mapping and what is in it, read as strictly as a word of a command line: nothing is interpolated or
    executed. Raises ValueError, RecursionError or yaml.YAMLError.
    """
    found = _from_yaml(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a mapping of keys to values")
    return found


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """What `mapping_from_yaml` reads as `tree`."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flow_text(mapping: Mapping[str, Any]) -> str:
    """The same in one line, {key: value}, as a word of a command line has it."""
    text: str = yaml.dump(
        dict(mapping),
        Dumper=_Dumper,
        default_flow_style=True,
        width=math.inf,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.rstrip("\n")


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that would be read as something else, and knows no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _reads_as_text(text) else "'")


_Dumper.add_representer(str, _represent_text)


def _reads_as_text(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return _plain(text) == text
    return False


def plain_value(value: Any) -> Any:
    """`value` as JSON and YAML hold it: durations and the like are text."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return str(value) if hasattr(value, "parse") else value


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


def _list_of_plain(text: str) -> list[Any]:
    return [_plain(part) for part in _list(text)]


def _mapping(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        raise ValueError(text)
    return mapping_from_yaml(text)


def _from_yaml(text: str) -> Any:
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    if node is None:
        raise ValueError("it is empty, no mapping of keys to values")
    return _from_node(node, set())


def _from_node(node: yaml.Node, seen: set[int]) -> Any:
    """YAML's meaning, but of the plain words only true, false, null, Python's spellings of them and decimal
    numbers are more than text (not yes, none, 010, 1:30), and a list or a mapping is used once: aliases of
    them can grow without bound.
    """
    if not re.fullmatch(r"tag:yaml\.org,2002:(map|seq|str)", node.tag):
        raise ValueError(f"it has the tag {node.tag}")
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else _plain(node.value)
    if id(node) in seen:
        raise ValueError("it has an alias of a list or a mapping, write the value itself")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(item, seen) for item in node.value]
    values = {_key_text(key): _from_node(value, seen) for key, value in node.value}
    if len(values) < len(node.value):
        raise ValueError("it has a key twice")
    return values


def _key_text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("it has a key that is not text")
    return str(node.value)


_WORDS = {"true": True, "false": False, "null": None}
_WORDS |= {str(value): value for value in _WORDS.values()}  # Python's spellings: False as a text is true


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if not text:
        raise ValueError("it has a key without a value")
    for read in (_whole_number, _number):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def _kind_words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_kind_words(kind.__args__[0])} or null"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin = typing.get_origin(kind)
    if origin:
        return "{key: value, ...}" if origin is dict else "a list such as a,b,c"
    return words.get(kind, "a duration such as 5ep, 500it or 0.05dur")


def checked_value(value: Any, spec: "dataclasses.Field[Any]", name: str) -> Any:
    """`value` in its key's own type, or a RecipeError that names the key, the value and a suggested fix."""
    kind: Any = spec.type
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = kind.__args__[0]
    if typing.get_origin(kind) is list and type(value) is list:
        return [_checked_item(item, kind.__args__[0], spec, name) for item in value]
    if typing.get_origin(kind) is dict and type(value) is dict:
        _check_argument(value, name)
        return value
    return _checked_item(value, kind, spec, name)


def _checked_item(value: Any, kind: Any, spec: "dataclasses.Field[Any]", name: str) -> Any:
    if kind is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if hasattr(kind, "parse") and type(value) is str:
        value = kind.parse(value, name)
    if type(value) is not kind:
        raise RecipeError(f"{name}={value!r}: {name} takes {_kind_words(spec.type)}.")
    _check_range(value, spec.metadata, name)
    # A shell leaves the ~ behind `key=` alone.
    return os.path.expanduser(value) if spec.metadata.get("path") else value


def _check_argument(value: Any, name: str) -> None:
    """An argument of a model: what YAML and JSON can hold, and nothing that they would change."""
    if isinstance(value, list):
        for item in value:
            _check_argument(item, name)
    elif isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise RecipeError(f"{name}={value!r}: the names of arguments are text.")
        _check_argument([*value, *value.values()], name)
    elif value is None or type(value) in (bool, int, float, str):
        _check_range(value, {}, name)
    else:
        raise RecipeError(
            f"{name}: {value!r} is a {type(value).__name__}. Write text, numbers, true, false, null, lists "
            f"or {{key: value}}."
        )


def _check_text(text: str, name: str) -> None:
    if "${" in text or text == "???":
        raise RecipeError(f"{name}={text}: interpolation is not supported. Write the value itself.")
    if not text.isprintable():
        raise RecipeError(f"{name}={text!r} holds a character that cannot be printed. Remove it.")


def _check_range(value: Any, checks: Mapping[str, Any], name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{name}={value}: {name} takes a finite number.")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RecipeError(f"{name}: {name} takes a whole number below 2**63.")
    if isinstance(value, str):
        _check_text(value, name)
    if "choices" in checks and value not in checks["choices"]:
        near = difflib.get_close_matches(str(value), [str(choice) for choice in checks["choices"]], n=1)
        hint = f". Did you mean {near[0]}?" if near else "."
        choices = ", ".join(str(choice) or "empty" for choice in checks["choices"])
        raise RecipeError(f"{name}={value}: {name} is one of {choices}{hint}")
    if checks.get("level") and not re.fullmatch(
        r"0?\.[0-9]+|[01](\.0*)?|[0-9](\.[0-9]*)?e-[0-9]{1,2}", value
    ):
        raise RecipeError(f"{name}={value}: {name} takes numbers from 0 to 1, such as 0.485,0.456,0.406.")
    if checks.get("divisor") and not float(value):
        raise RecipeError(f"{name}={value}: the pixels are divided by {name}, which must be above 0.")
    if checks.get("pixels") and not re.fullmatch(r"[1-9][0-9]{0,4}", value):
        raise RecipeError(
            f"{name}={value}: {name} takes whole numbers of pixels from 1 to 99999, such as 640,800."
        )
    if checks.get("policy") and not re.fullmatch(_POLICY, value):
        raise RecipeError(
            f"{name}={value}: {name} takes rand with options of timm's RandAugment (rand-m9-mstd0.5-inc1), "
            "original, originalr, v0, v0r, 3a, or ta_wide."
        )
    bounds = {
        "at_least": value.__class__.__ge__,
        "above": value.__class__.__gt__,
        "below": value.__class__.__lt__,
        "at_most": value.__class__.__le__,
    }
    for word, holds in bounds.items():
        if word in checks and not holds(value, type(value)(checks[word])):
            raise RecipeError(f"{name}={value}: {name} must be {word.replace('_', ' ')} {checks[word]}.")
