"""Lengths with their unit, and the values of a recipe that contain them: milestones, batch growth, entries of
a rate table.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Self

from lbtrain.errors import RecipeError


@dataclass(frozen=True)
class Duration:
    """A length with its unit: epochs (`5ep`), optimizer steps (`500it`) or a share of the whole run
    (`0.05dur`).
    """

    value: float
    unit: Literal["ep", "it", "dur"]

    @classmethod
    def parse(cls, text: str, name: str = "duration") -> Self:
        """Raises RecipeError for anything but a non-negative number with one of the three units."""
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?|\.[0-9]+)(ep|it|dur)", text)
        if not match:
            raise RecipeError(
                f"{name}={text}: a duration carries its unit: 5ep (epochs), 500it (steps) or 0.05dur (share "
                "of the run)"
            )
        value = float(match[1])
        if match[2] == "dur" and value > 1:
            raise RecipeError(f"{name}={text}: a share of the run is at most 1dur")
        return cls(value, match[2])  # type: ignore[arg-type]

    def examples(self, *, train_examples: int, batch_size: int, total_examples: int) -> float:
        """The same length in examples seen: exact decimals, so that 1.1ep of 1440 is 1584 and not a trifle
        more, which would be another step.
        """
        return float(
            Fraction(str(self.value))
            * {"ep": train_examples, "it": batch_size, "dur": total_examples}[self.unit]
        )


@dataclass(frozen=True)
class Milestone:
    """Where a step decay falls: `60ep`, or `60ep:0.32` with a factor of its own."""

    at: str
    factor: float | None = None

    @classmethod
    def parse(cls, text: str, name: str = "milestones") -> Self:
        """Raises RecipeError for anything but a duration, and behind a colon a decimal number above 0, at
        most 1.
        """
        at, colon, factor = text.partition(":")
        if colon and not (re.fullmatch(r"[01](?:\.[0-9]{1,12})?", factor) and 0 < float(factor) <= 1):
            raise RecipeError(
                f"{name}={text}: write where the rate falls, or also to which share of itself: 60ep, 60ep:0.2"
            )
        Duration.parse(at, name)
        return cls(at, float(factor) if colon else None)


@dataclass(frozen=True)
class BatchGrowth:
    """Where a batch grows and by what: `60ep:5` is five times the batch from the first step at or after epoch
    60.
    """

    at: str
    factor: Fraction

    @classmethod
    def parse(cls, text: str, name: str = "batch_growth") -> Self:
        """Raises RecipeError for anything but a duration, a colon and a decimal number above 1."""
        at, _, factor = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", factor) or Fraction(factor) <= 1:
            raise RecipeError(
                f"{name}={text}: write where the batch grows and by which factor above 1, such as 60ep:5"
            )
        if not Duration.parse(at, name).value:
            raise RecipeError(f"{name}={text}: the batch that the run starts with is batch_size")
        return cls(at, Fraction(factor))


@dataclass(frozen=True)
class TableEntry:
    """A learning rate that was found for one batch size: `8192:16`."""

    batch_size: int
    lr: float

    @classmethod
    def parse(cls, text: str, name: str = "table") -> Self:
        """Raises RecipeError for anything but a batch size, a colon and a rate above 0."""
        batch_size, _, lr = text.partition(":")
        number = r"([0-9]{1,9}(?:\.[0-9]{1,12})?)(?:e(-?[0-9]{1,2}))?"
        if not re.fullmatch(r"[1-9][0-9]{0,9}", batch_size) or not re.fullmatch(number, lr) or not float(lr):
            raise RecipeError(f"{name}={text}: write a batch size and its learning rate, such as 8192:16")
        return cls(int(batch_size), float(lr))
