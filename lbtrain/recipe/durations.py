"""Durations with their unit, and the values of a recipe that contain them: milestones, batch growth, image
sizes and the entries of a learning-rate table.

Each is parsed once, when a recipe is made, and is a value from then on; `str` gives the text that it was
parsed from, so that a recipe survives YAML and the command line.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, Self

from lbtrain.errors import RecipeError


@dataclass(frozen=True)
class Duration:
    """A length with its unit: epochs (`5ep`), optimizer steps (`500it`) or a share of the whole run
    (`0.05dur`).
    """

    value: Decimal
    unit: Literal["ep", "it", "dur"]

    @classmethod
    def parse(cls, text: str, name: str = "duration") -> Self:
        """Raises RecipeError for anything but a non-negative number with one of the three units."""
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})(ep|it|dur)", text)
        if not match:
            raise RecipeError(
                f"{name}={text}: a duration carries its unit. Write 5ep (epochs), 500it (steps) or 0.05dur "
                "(share of the run)."
            )
        value = Decimal(match[1])
        if match[2] == "dur" and value > 1:
            raise RecipeError(f"{name}={text}: a share of the run is at most 1dur.")
        return cls(value, match[2])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.value:f}{self.unit}"

    def __bool__(self) -> bool:
        return bool(self.value)

    def examples(self, *, train_examples: int, batch_size: int, total_examples: int) -> float:
        """The same length in examples seen. Decimals are exact, so that 1.1ep of 1440 is 1584 and not a
        trifle more, which would be another step.
        """
        unit = {"ep": train_examples, "it": batch_size, "dur": total_examples}[self.unit]
        return float(Fraction(self.value) * unit)


@dataclass(frozen=True)
class Milestone:
    """Where a step decay falls: `60ep`, or `60ep:0.32` with a factor of its own."""

    at: Duration
    factor: Decimal | None = None

    @classmethod
    def parse(cls, text: str, name: str = "milestones") -> Self:
        """Raises RecipeError for anything but a duration, and behind a colon a decimal number above 0, at
        most 1.
        """
        at, colon, factor = text.partition(":")
        if colon and not (re.fullmatch(r"[01](?:\.[0-9]{1,12})?", factor) and 0 < Decimal(factor) <= 1):
            raise RecipeError(
                f"{name}={text}: a milestone is a duration, or a duration and a factor above 0 and at most "
                "1. Write 60ep or 60ep:0.2."
            )
        return cls(Duration.parse(at, name), Decimal(factor) if colon else None)

    def __str__(self) -> str:
        return f"{self.at}" if self.factor is None else f"{self.at}:{self.factor:f}"


@dataclass(frozen=True)
class BatchGrowth:
    """Where a batch grows and by what: `60ep:5` is five times the batch from the first step at or after epoch
    60.
    """

    at: Duration
    factor: Decimal

    @classmethod
    def parse(cls, text: str, name: str = "batch_growth") -> Self:
        """Raises RecipeError for anything but a positive duration, a colon and a decimal number above 1."""
        at, _, factor = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", factor) or Decimal(factor) <= 1:
            raise RecipeError(
                f"{name}={text}: a point of growth is a duration and a factor above 1. Write 60ep:5, for "
                "example."
            )
        duration = Duration.parse(at, name)
        if not duration.value:
            raise RecipeError(f"{name}={text}: the batch that the run starts with is set by batch_size.")
        return cls(duration, Decimal(factor))

    def __str__(self) -> str:
        return f"{self.at}:{self.factor:f}"


@dataclass(frozen=True)
class ImageSize:
    """From where on training images have how many pixels a side: `10ep:192`, or `10ep:192:1024` in batches of
    1,024.
    """

    at: Duration
    pixels: int
    batch_size: int | None = None

    @classmethod
    def parse(cls, text: str, name: str = "image_sizes") -> Self:
        """Raises RecipeError for anything but a duration, a number of pixels and perhaps a batch size, and
        for a batch size at the start of the run.
        """
        at, *numbers = text.split(":")
        if len(numbers) not in (1, 2) or not all(re.fullmatch(r"[1-9][0-9]{0,9}", each) for each in numbers):
            raise RecipeError(
                f"{name}={text}: an image size is a duration and pixels a side, and perhaps a batch size. "
                "Write 10ep:192 or 10ep:192:1024."
            )
        duration = Duration.parse(at, name)
        if len(numbers) == 2 and not duration:
            raise RecipeError(f"{name}={text}: the batch that the run starts with is set by batch_size.")
        return cls(duration, *map(int, numbers))

    def __str__(self) -> str:
        batch = f":{self.batch_size}" if self.batch_size else ""
        return f"{self.at}:{self.pixels}{batch}"


@dataclass(frozen=True)
class TableEntry:
    """A learning rate or a momentum that was found for one batch size: `8192:16`."""

    batch_size: int
    lr: float

    @classmethod
    def parse(cls, text: str, name: str = "table") -> Self:
        """Raises RecipeError for anything but a batch size, a colon and a positive number."""
        batch_size, _, lr = text.partition(":")
        number = r"[0-9]{1,20}(\.[0-9]{1,20})?(e[-+]?[0-9]{1,2})?"
        if not re.fullmatch(r"[1-9][0-9]{0,9}", batch_size) or not re.fullmatch(number, lr) or not float(lr):
            raise RecipeError(
                f"{name}={text}: an entry is a batch size and a number above 0. Write 8192:0.9, for example."
            )
        return cls(int(batch_size), float(lr))

    def __str__(self) -> str:
        return f"{self.batch_size}:{str(self.lr).removesuffix('.0')}"
