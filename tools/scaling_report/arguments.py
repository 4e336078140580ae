"""Types of command-line arguments that several commands share; each refuses bad text with what would work."""

import argparse
import math


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


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def one_of(*choices: str):  # type: ignore[no-untyped-def]
    """A comma-separated selection of `choices`."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [part for part in chosen if part not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(choices)}")
        return chosen

    return parse
