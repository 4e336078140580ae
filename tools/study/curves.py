"""Curves of a score over the batch size: what a sweep measured, and what a source prints."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from ..kit.charts import COLOURS, crosses, look, mean_curve, name_in_ink


class Curve(NamedTuple):
    """One arm: batch sizes, the mean score at each (%), the standard deviation of a run there (None: a single
    run, or none is known), who says so, and the batch sizes at which runs diverged.
    """

    arm: str
    batch_sizes: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float | None, ...]
    source: str = "measured"
    diverged: tuple[int, ...] = ()


Means = tuple[int, float, float | None]
"""A batch size, the mean there, and the standard deviation."""


def curve_of(arm: str, points: Sequence[Means], source: str, diverged: Sequence[int] = ()) -> Curve:
    """The smallest batch first."""
    sizes, means, stds = zip(*sorted(points), strict=True) if points else ((), (), ())
    return Curve(arm, sizes, means, stds, source, tuple(sorted(diverged)))


def measured(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """The arms in the rows of sweep.json; where every run diverged there is no mean."""
    points: dict[str, list[Means]] = {row["arm"]: [] for row in rows}
    diverged: dict[str, list[int]] = {arm: [] for arm in points}
    for row in rows:
        if row["mean"] is not None:
            std = row["std"] if row["n"] > 1 else None
            points[row["arm"]].append((row["batch_size"], row["mean"], std))
        if row["diverged"]:
            diverged[row["arm"]].append(row["batch_size"])
    return [curve_of(arm, own, "measured", diverged[arm]) for arm, own in points.items()]


METHODS = ("unscaled", "linear", "linear + warm-up", "sgd", "lars", "lamb", "adamw", "muon")
"""Ways of scaling, and optimizers, that look alike in every picture."""


def looks_of(arms: Sequence[str]) -> dict[str, int]:
    """The number by which each arm is drawn (`charts.look`): that of the method that is its name or a word of
    it (`resnet8_4k_lars`), so that one method has one colour in all pictures, with other dashes and another
    marker for a second arm of it; and a free one for any other.
    """
    found: dict[str, int] = {}
    for arm in dict.fromkeys(arms):
        words = re.split("[^a-z0-9]+", arm.lower())
        if named := [arm] if arm in METHODS else [method for method in METHODS if method in words]:
            alike = itertools.count(METHODS.index(named[0]), len(COLOURS))
            found[arm] = next(number for number in alike if number not in found.values())
    taken = set(found.values())
    free = (number for number in itertools.count() if number not in taken)
    for arm in arms:
        if arm not in found:
            found[arm] = next(free)
    return found


def draw(axes: Axes, curves: Sequence[Curve], *, top: bool = True) -> None:
    """Curves that the legend will name in the order in which they end, the highest first; crosses where runs
    diverged, at the upper edge or (`top`=False) the lower one.
    """
    looks = looks_of([curve.arm for curve in curves])
    for place, curve in sorted(enumerate(curves), key=lambda each: each[1].means[-1:], reverse=True):
        number = looks[curve.arm]
        # A little aside, so that bars of arms that agree do not hide each other.
        shift = 1.02 ** (place - (len(curves) - 1) / 2)
        name = curve.arm if curve.source == "measured" else f"{curve.arm} ({curve.source})"
        sizes = [size * shift for size in curve.batch_sizes]
        mean_curve(axes, number, sizes, curve.means, curve.stds, label=name)
        aside = [size * shift**4 for size in curve.diverged]  # crosses lie on one line
        crosses(axes, aside, look(number)["color"], top=top, label=None)
    if any(None in curve.stds for curve in curves):
        name_in_ink(axes, "o", "one run, or no deviation known")
    if any(curve.diverged for curve in curves):
        name_in_ink(axes, "x", "runs that diverged")


def sizes_of(curves: Sequence[Curve]) -> list[int]:
    return sorted({size for curve in curves for size in (*curve.batch_sizes, *curve.diverged)})
