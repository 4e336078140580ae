"""Types of command-line arguments that several commands share; bad text is rejected with an example."""

import argparse
import re
from collections.abc import Callable, Mapping
from typing import Any

from lbtrain.errors import RecipeError

from ..kit.command import count, positive
from .model.presets import named


def sizes(text: str) -> list[int]:
    """ "8,16,32" as ascending GPU counts."""
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError:
        values = []
    if not values or not 1 <= values[0] <= values[-1] <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPU counts such as 8,16,32")
    return values


def stages(text: str) -> list[int]:
    """ "0,1" as ZeRO stages."""
    values = text.split(",")
    if not set(values) <= {"0", "1", "2", "3"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ZeRO stages such as 0,1")
    return [int(value) for value in dict.fromkeys(values)]


def one_of(*choices: str):  # type: ignore[no-untyped-def]
    """A comma-separated selection of `choices`."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [part for part in chosen if part not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(choices)}")
        return chosen

    return parse


def rates(text: str) -> dict[int | None, float]:
    """ "2800" as the throughput of a number of GPUs that another flag names (None), or "8=2800,16=5300"."""
    if "=" not in text:
        return {None: positive(text)}
    pairs = [part.partition("=") for part in text.split(",")]
    found: dict[int | None, float] = {count(gpus): positive(rate) for gpus, _, rate in pairs}
    if len(found) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} gives a size twice; write each once, as 8=2800,16=5300")
    return found


def preset_name(presets: Mapping[str, Any]) -> Callable[[str], str]:
    """The name of one of `presets`, in any case and punctuation."""

    def parse(text: str) -> str:
        try:
            return named(text, presets)
        except RecipeError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


_SIZES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def gradient_bytes(text: str) -> float:
    """Bytes of a value (1, 2, 4 or 8), or of all gradients of a model ("178MB", "1.7e8")."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmg]i?)?b?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 2, 4 or 178MB")
    value = positive(match[1]) * _SIZES[match[2] or ""]
    if value not in (1, 2, 4, 8) and value < 1000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither the bytes of a value (1, 2, 4 or 8) nor those of a model: "
            f"did you mean {text}MB?"
        )
    return value


def price(text: str) -> tuple[float, str]:
    """ "2.5/gpu-hour" or "32/node-hour"; a bare number is of a GPU hour."""
    value, _, unit = text.partition("/")
    if unit not in ("", "gpu-hour", "node-hour"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price such as 2.5/gpu-hour or 32/node-hour")
    return positive(value), "node" if unit == "node-hour" else "gpu"
