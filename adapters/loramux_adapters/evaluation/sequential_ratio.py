"""Intervals for ratios of latencies, tokens and costs that may be looked at any time, from randomised requests.

These quantities have no upper limit, so unlike those of scores (see `sequential`), the intervals are asymptotic: they
hold once the means of the units are nearly normal. They are asymptotic confidence sequences (Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, 2021, "Time-uniform central limit theory and asymptotic confidence sequences") of the
difference of the logs of two means, and none is given below MIN_UNITS units of each variant.

Assumptions: units (users) are independent, and both variants are asked during the same time.
"""

from collections.abc import Sequence

import numpy as np

from loramux_adapters.evaluation.statistics import Interval

MIN_UNITS = 20
"""Units of each variant below which there is no interval."""
_ROUNDING = 1e-20
TUNED_FOR_UNITS = 500
"""The intervals are narrowest at about this number of units."""


def ratio_interval(
    challenger: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> Interval | None:
    """The interval of mean(challenger) / mean(reference), one value per unit; None if it can't be told.

    Raises:
        ValueError: a value is negative or not finite.
    """
    values = [np.asarray(side, dtype=np.float64) for side in (challenger, reference)]
    if not all(np.isfinite(side).all() and (side >= 0).all() for side in values):
        raise ValueError("a ratio needs finite values that are not negative")
    if min(map(len, values)) < MIN_UNITS or not all(side.any() for side in values):
        return None
    above, below = (float(side.mean()) for side in values)
    # The delta method: var(log mean) = var(mean) / mean^2.
    variance = sum(float(side.var(ddof=1)) / len(side) / float(side.mean()) ** 2 for side in values)
    if variance < _ROUNDING:  # equal values in all units say nothing about how much others differ
        return None
    half = np.sqrt(variance) * _boundary(sum(map(len, values)), 1 - confidence)
    ratio = above / below
    return Interval(float(ratio * np.exp(-half)), ratio, float(ratio * np.exp(half)))


def _boundary(units: int, alpha: float) -> float:
    """Standard errors on each side of the estimate: about 3 where a look at a fixed number of units takes 2."""
    tuning = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / TUNED_FOR_UNITS
    spread = units * tuning + 1
    return float(np.sqrt(2 * spread / (units * tuning) * np.log(np.sqrt(spread) / alpha)))
