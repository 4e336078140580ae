"""The critical batch that steps measured at several batch sizes show (McCandlish et al. 2018, section 3)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

FAR = 1e8
"""How many times beyond the batch sizes a critical batch is looked for; there no bend can show."""
SAME = 1e-3
"""By how much of the steps a curve may be off and be as good as an exact one: steps are whole numbers."""


def fit(best: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """steps_min and examples_min of steps = steps_min + examples_min / batch, by least squares on the
    logarithms of every seed's steps, and the critical batch, which is their ratio.

    Its interval of 95% holds every critical batch whose best curve is not much worse than the best of all, by
    Student's t: it is for the best rates as they were found. An end of 0 or None is not bounded by the
    measurements; then no critical batch is given, and the minima only draw the curve that fits best.
    """
    from scipy.optimize import minimize_scalar

    sizes = np.array([each["batch_size"] for each in best for _ in each["each"]], dtype=float)
    steps = np.array([steps for each in best for steps in each["each"]], dtype=float)

    def min_steps(log: float) -> Any:
        """By each measurement, in logarithms."""
        return np.log(steps) - np.log1p(np.exp(log) / sizes)

    def squares(log: float) -> float:
        return len(steps) * float(np.var(min_steps(log)))

    logs = np.linspace(np.log(sizes.min() / FAR), np.log(sizes.max() * FAR), 2001)
    nearest = int(np.argmin([squares(log) for log in logs]))
    bounds = logs[max(nearest - 1, 0)], logs[min(nearest + 1, len(logs) - 1)]
    middle = float(minimize_scalar(squares, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    freedom = len(steps) - 2
    worst = squares(middle) * (1 + float(stdtrit(freedom, 0.975)) ** 2 / freedom) + SAME**2 * len(steps)
    low = _crossing(squares, worst, [*logs[logs < middle], middle])
    high = _crossing(squares, worst, [*logs[logs > middle][::-1], middle])
    critical, fewest = float(np.exp(middle)), float(np.exp(np.mean(min_steps(middle))))
    return {
        "critical_batch": critical if low and high else None,
        "critical_batch_interval": (low or 0.0, high),
        "min_steps": fewest,
        "min_examples": critical * fewest,
    }


def _crossing(squares: Callable[[float], float], worst: float, logs: Sequence[float]) -> float | None:
    """The first critical batch, of those whose logarithms are given, that is not worse than `worst`; None
    where already the first one is not.
    """
    from scipy.optimize import brentq

    first = next(number for number, log in enumerate(logs) if squares(log) <= worst)
    if first == 0:
        return None
    return float(np.exp(brentq(lambda log: squares(log) - worst, logs[first - 1], logs[first])))
