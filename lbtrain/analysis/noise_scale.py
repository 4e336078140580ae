"""The gradient noise scale: past which batch size more images per step buy next to nothing.

Source: McCandlish et al. 2018, "An empirical model of large-batch training", section 2.2 and appendix A.1:
B_simple = tr(S) / |G|^2, with G the true gradient and S the covariance of one example's gradient, estimated
from squared gradient norms at two batch sizes b < B:

    |G|^2 ~ (B |g_B|^2 - b |g_b|^2) / (B - b)        tr(S) ~ (|g_b|^2 - |g_B|^2) / (1/b - 1/B)

Both are unbiased, their ratio is not: so they are averaged over many steps first and divided then.
Cost: nothing but norms, where a step has gradients of two sizes anyway (a micro-batch's or a rank's, and the
reduced one). Limits: B_simple stands for B_noise = tr(HS) / G'HG as far as the Hessian is like a multiple of
the identity. It grows during training, so an average lags behind. From examples drawn without replacement G
is estimated as the gradient over all that the N examples stand for: over the examples themselves |G|^2 is
larger by tr(S)/N, which matters once a run fits them. The interval takes the measurements as independent: it
knows nothing of a drift within the window.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW = 100
"""Measurements in a running average."""


class Moments(NamedTuple):
    """Unbiased estimates of one step: |G|^2, which may come out negative, and tr(S), of the gradient of one
    example.
    """

    gradient_square: float
    trace: float


@dataclass(frozen=True)
class NoiseScale:
    """In examples. `value` is None, and `high` infinite, where the gradient drowns in the noise: then only
    `low` is known.
    """

    value: float | None
    low: float
    high: float
    gradient_square: float
    trace: float
    measurements: int


def moments(small_square: float, large_square: float, *, small_batch: int, large_batch: int) -> Moments:
    """From the squared norms of the mean gradients of `small_batch` and of `large_batch` examples (averages
    of several will do).
    """
    if not 0 < small_batch < large_batch:
        raise ValueError(
            f"small_batch={small_batch} and large_batch={large_batch}: the noise shows only between two "
            "batch sizes"
        )
    gradient_square = (large_batch * large_square - small_batch * small_square) / (large_batch - small_batch)
    return Moments(gradient_square, (small_square - large_square) / (1 / small_batch - 1 / large_batch))


def moments_of_row(row: Mapping[str, Any]) -> Moments:
    """From a row of kind `noise`, as a run writes them to metrics.jsonl."""
    return moments(
        row["small_square"],
        row["large_square"],
        small_batch=row["small_batch"],
        large_batch=row["large_batch"],
    )


def noise_scale(measured: Sequence[Moments]) -> NoiseScale:
    """The ratio of the averages, with Fieller's 95 % interval for a ratio of two means (exact for normal
    ones, also near a zero denominator).
    """
    squares, traces = np.array(measured, np.float64).T
    square, trace = float(squares.mean()), float(traces.mean())
    low, high = _fieller(traces, squares) if len(measured) > 2 else (0.0, math.inf)
    return NoiseScale(_ratio(square, trace), max(low, 0.0), high, square, trace, len(measured))


def _ratio(gradient_square: float, trace: float) -> float | None:
    return max(0.0, trace) / gradient_square if gradient_square > 0 else None


def _fieller(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """All ratios r for which mean(above - r below) is not significantly different from 0; (r, inf) where the
    denominator may be 0.
    """
    from scipy.special import stdtrit

    n, a, b = len(above), float(above.mean()), float(below.mean())
    quantile = float(stdtrit(n - 1, 0.975))  # of Student's t
    (var_a, cov), (_, var_b) = (quantile**2 / n * np.cov(above, below)).tolist()
    # (a - r b)^2 = quantile^2 variance(a - r b) / n, a quadratic in r
    second, first, constant = b * b - var_b, a * b - cov, a * a - var_a
    discriminant = first * first - second * constant
    if discriminant < 0:
        return 0.0, math.inf
    roots = (
        sorted((first + sign * math.sqrt(discriminant)) / second for sign in (-1, 1))
        if second
        else [0.0, math.inf]
    )
    if second > 0 and b > 0:
        return roots[0], roots[1]
    # Where the denominator may be 0, all ratios but those between the roots are possible; 0 is one unless the
    # numerator is significant.
    return roots[1] if second < 0 and constant > 0 else 0.0, math.inf


class RunningNoise:
    """The noise scale over the last WINDOW measurements."""

    def __init__(self, earlier: Sequence[Moments] = ()):
        self.measured = deque(earlier, maxlen=WINDOW)

    def add(self, measured: Moments) -> NoiseScale:
        """The noise scale with this measurement, the newest."""
        self.measured.append(measured)
        return noise_scale(list(self.measured))


class RunningLayers:
    """The noise scale of every layer over the last WINDOW measurements, without its interval: a read of one
    array for all layers.
    """

    def __init__(self) -> None:
        self.measured: deque[NDArray[np.float64]] = deque(maxlen=WINDOW)

    def add(self, measured: Sequence[Moments]) -> list[float | None]:
        """`measured` holds the moments of each layer; so does the answer their noise scales (None: not to be
        told from infinite).
        """
        self.measured.append(np.array(measured, np.float64))
        return [_ratio(*layer) for layer in np.mean(self.measured, axis=0).tolist()]
