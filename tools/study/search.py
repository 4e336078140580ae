"""The search of `study tune`: the keys and their ranges, the trials at quasi-random points, and what came of
them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe.files import load_recipe

from .grid import GridArm, Point, points_of
from .jobs import Launch
from .sweep import words_at

SCALES = ("log", "linear", "powers")


@dataclass(frozen=True)
class Axis:
    """One key and the range that is searched; `scale` is one of SCALES."""

    key: str
    scale: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """From KEY:SCALE:LOW:HIGH. Raises RecipeError."""
        try:
            key, scale, low, high = text.split(":")
            axis = cls(key, scale, float(low), float(high))
        except ValueError:
            raise RecipeError(f"--over {text}: write KEY:SCALE:LOW:HIGH") from None
        if scale not in SCALES:
            raise RecipeError(f"--over {text}: the scale {scale} is none of {', '.join(SCALES)}")
        if not -math.inf < axis.low < axis.high < math.inf or (scale != "linear" and axis.low <= 0):
            positive = "0 < " * (scale != "linear")
            raise RecipeError(f"--over {text}: the range must have {positive}LOW < HIGH, both finite")
        if scale == "powers" and axis.at(0) > axis.high:
            raise RecipeError(f"--over {text}: no power of two lies in this range")
        return axis

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to below 1."""
        if self.scale == "linear":
            return self.low + (self.high - self.low) * share
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        first, last = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
        return float(2 ** (first + math.floor(share * (last - first + 1))))

    def word(self, share: float) -> str:
        """The same as KEY=VALUE; a power of two may be the value of a key that takes whole numbers."""
        value = self.at(share)
        return f"{self.key}={value:.4g}" if value != int(value) else f"{self.key}={value:.0f}"


def axes_of(words: Sequence[str], recipe: str) -> list[Axis]:
    """The axes of one recipe (its file's stem): those for it alone come before those for all. Raises
    RecipeError.
    """
    found: dict[str, Axis] = {}
    for word in sorted(words, key=lambda word: "/" in word.partition(":")[0]):
        owner, _, text = word.rpartition("/")
        if owner in ("", recipe):
            axis = Axis.parse(text)
            found[axis.key] = axis
    if not found:
        raise RecipeError(f"{recipe}: no --over names a key of it")
    return list(found.values())


def shares(trials: int, dimensions: int) -> list[list[float]]:
    """The first points of one sequence in the unit cube, whatever their number [trials, dimensions].

    scipy's sequence itself: optuna's QMCSampler takes it too, but its first point is a random one.
    """
    from scipy.stats.qmc import Sobol

    points = Sobol(dimensions, rng=0).random_base2(max(0, (trials - 1).bit_length()))
    return [[float(share) for share in point] for point in points[:trials]]


@dataclass(frozen=True)
class Trial:
    """One setting of one recipe, and the words that make it: a key and its number each."""

    recipe: str
    words: tuple[str, ...]
    arm: GridArm

    @property
    def values(self) -> tuple[float, ...]:
        """Of each key."""
        return tuple(float(word.partition("=")[2]) for word in self.words)


def trials_of(path: Path, overrides: Sequence[str], over: Sequence[str], count: int) -> list[Trial]:
    """Raises RecipeError for a range or a key that is wrong."""
    recipe, axes = load_recipe(path).with_overrides(overrides), axes_of(over, path.stem)
    trials = []
    for number, point in enumerate(shares(count, len(axes))):
        words = tuple(axis.word(at) for axis, at in zip(axes, point, strict=True))
        recipe.with_overrides(words)
        batch = partial(words_at, recipe, tuple(overrides), False)
        arm = GridArm(f"{path.stem}/trial{number:03}", path, recipe, partial(_with_words, batch, words))
        trials.append(Trial(path.stem, words, arm))
    return trials


def _with_words(batch: Any, words: tuple[str, ...], batch_size: int) -> tuple[str, ...]:
    return (*batch(batch_size), *words)


@dataclass(frozen=True)
class Search:
    """All trials of one recipe at one batch size, in the order in which they were made."""

    recipe: str
    batch_size: int
    trials: Sequence[Trial]
    points: Sequence[Point]
    confirmed: Point | None = None
    """The best trial on seeds that the search has not used."""

    @property
    def keys(self) -> list[str]:
        """What is searched over."""
        return [word.partition("=")[0] for word in self.trials[0].words]

    def scores(self) -> list[float | None]:
        """One per trial; None where a run diverged."""
        return [None if point.lost else point.mean for point in self.points]

    def best_so_far(self) -> list[float | None]:
        """After each trial."""
        found: list[float | None] = []
        higher = self.points[0].primary_metric.higher_is_better
        for score in self.scores():
            known = [each for each in (score, found[-1] if found else None) if each is not None]
            found.append((max if higher else min)(known) if known else None)
        return found

    @property
    def best(self) -> int | None:
        """The number of the best trial, the first where several are alike; None if all diverged."""
        best = self.best_so_far()[-1]
        return None if best is None else self.scores().index(best)

    def confirmed_on(self, launch: Launch) -> "Search":
        """With the best trial on the seeds of `launch`, if there is one."""
        if self.best is None:
            return self
        arm, seeds = self.trials[self.best].arm, launch.seeds
        (point,) = points_of([arm], [self.batch_size], seeds, launch.out, launch.evaluations)
        return replace(self, confirmed=point)

    def outcome(self) -> str:
        name = f"{self.recipe} at batch {self.batch_size:,}"
        if self.best is None:
            return f"{name}: every trial diverged"
        trial = self.trials[self.best]
        tried = zip(*(each.values for each in self.trials), strict=True)
        edges = [
            f"; no {'larger' if own == max(all_own) else 'smaller'} {word.split('=')[0]} was tried: widen it"
            for word, own, all_own in zip(trial.words, trial.values, tried, strict=True)
            if own in (min(all_own), max(all_own))
        ]
        return f"{name}: {self.points[self.best].cell} with {' '.join(trial.words)}{''.join(edges)}"

    def row(self) -> list[str]:
        diverged = sum(bool(point.lost) for point in self.points)
        best, words = "-", "-"
        if self.best is not None:
            best, words = self.points[self.best].cell, " ".join(self.trials[self.best].words)
        keys, seeds = len(self.keys), len(self.points[0].jobs)
        counts = (len(self.points), seeds, keys, diverged)
        confirmed = self.confirmed.cell if self.confirmed else "-"
        return [self.recipe, f"{self.batch_size:,}", *map(str, counts), best, confirmed, words]
