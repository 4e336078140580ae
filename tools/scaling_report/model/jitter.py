"""How long the slowest of n ranks takes, from step times that were measured.

Ranks run in step, so a step lasts as long as its slowest rank. Two things differ:

- step by step: a rank's time against its own median. The mean of the largest of n draws from m measured
  values x_(1) <= ... <= x_(m) is sum_i x_(i) ((i/m)^n - ((i-1)/m)^n) (David & Nagaraja 2003, section 2.2).
  Where n nears m that stops at the largest value seen, so the slowest 1.5 sqrt(m) are continued by an
  exponential tail (Pickands 1975, shape 0), whose scale is uncertain by 1/sqrt(values in it);
- for good: a rank's median against the other ranks'. Few ranks say little about that, so an assumed spread
  counts as one more of them.

Times of different ranks are taken as independent: what slows all ranks at once (a file server, say) is then
counted as if it met one.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.special import ndtri

from .comm import FloatArray

_POINTS = 20_000
_TAIL_FACTORS = (0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """`relative`: each step's time over the median of its rank. `ranks`: the median of each rank (host and
    place on it) over their mean.
    """

    relative: tuple[float, ...]
    ranks: tuple[float, ...]

    @staticmethod
    def of(seconds: Sequence[tuple[str, Sequence[float]]]) -> "StepTimes":
        """From (name of the rank, its step times), one entry a run; a rank that was measured in several runs
        counts once.
        """
        relative: list[float] = []
        medians: dict[str, list[float]] = {}
        for name, steps in seconds:
            middle = statistics.median(steps)
            relative += [step / middle for step in steps]
            medians.setdefault(name, []).append(middle)
        each = [statistics.fmean(values) for values in medians.values()]
        return StepTimes(tuple(sorted(relative)), tuple(value / statistics.fmean(each) for value in each))

    @property
    def in_tail(self) -> int:
        """How many of the slowest values the tail is taken from."""
        number = len(self.relative)
        return max(2, min(number // 4, int(1.5 * number**0.5)))

    @property
    def step_spread(self) -> float:
        """Standard deviation step by step, relative."""
        return statistics.pstdev(self.relative)

    @property
    def rank_spread(self) -> float | None:
        """Standard deviation between ranks, relative; None of a single rank."""
        return statistics.stdev(self.ranks) if len(self.ranks) > 1 else None

    def quantiles(self, shares: FloatArray, *, tail: float) -> FloatArray:
        """Relative step times at `shares` in (0, 1); the exponential tail has `tail` times the measured
        scale.
        """
        values = np.asarray(self.relative)
        start = 1 - self.in_tail / len(values)
        threshold = float(np.quantile(values, start))
        scale = tail * float(np.mean(values[-self.in_tail :] - threshold))
        beyond = threshold - scale * np.log(np.minimum((1 - shares) / (1 - start), 1.0))
        return np.where(shares > start, beyond, np.quantile(values, np.minimum(shares, start)))


class Slowest:
    """The mean of the slowest of n ranks, relative to one rank's median: an array over draws, for any n.

    `assumed_spread` are draws of the standard deviation between equal ranks, from elsewhere than this
    measurement.
    """

    def __init__(self, times: StepTimes, assumed_spread: FloatArray, rng: np.random.Generator):
        known = len(times.ranks) - 1
        evidence = known * (times.rank_spread or 0.0) ** 2
        spread = np.sqrt((assumed_spread**2 + evidence) / (1 + known))
        tail = np.clip(
            np.exp(rng.standard_normal(len(spread)) / np.sqrt(times.in_tail)),
            _TAIL_FACTORS[0],
            _TAIL_FACTORS[-1],
        )
        self._draws = np.stack([spread, tail], axis=1)
        self._spreads = np.linspace(0, float(spread.max()) + 1e-9, 6)
        shares = (np.arange(_POINTS) + 0.5) / _POINTS
        # Which rank is slow for good has nothing to do with which step is.
        lasting = ndtri(shares)[np.random.default_rng(0).permutation(_POINTS)]
        steps = [times.quantiles(shares, tail=factor) for factor in _TAIL_FACTORS]
        self._sorted = np.array(
            [[np.sort(step + width * lasting) for step in steps] for width in self._spreads]
        )

    def __call__(self, ranks: int) -> FloatArray:
        heights = (np.arange(_POINTS + 1) / _POINTS) ** ranks
        means = self._sorted @ np.diff(heights)
        return np.asarray(RegularGridInterpolator((self._spreads, _TAIL_FACTORS), means)(self._draws))
