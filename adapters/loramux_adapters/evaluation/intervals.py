"""Confidence intervals of mean scores and of paired differences, sound for few items and for equal scores.

Which method covers how often is simulated by `python -m benchmarks.coverage`; docs/how-we-measure.md explains them.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from loramux_adapters.evaluation.statistics import MIN_ITEMS, Interval, Samples, finite_samples


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """The interval of a mean score: Wilson's where all are 0 or 1, else a t interval with two pseudo-observations.

    Raises:
        ValueError: there are no scores, or one is not finite.
    """
    samples = finite_samples(scores)
    if np.isin(samples, (0.0, 1.0)).all():
        return _wilson_interval(samples, confidence)
    low, high = _bounds(samples)
    centre = float(samples.mean())
    reach = float(np.abs(samples - centre).max()) or max(high - centre, centre - low)
    return _t_interval(samples, [centre - reach, centre + reach], confidence, low, high)


def difference_interval(
    challenger: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """The interval of mean(challenger) - mean(reference), whose scores are paired by item.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    if len(challenger) != len(reference):
        raise ValueError(f"{len(challenger)} scores can't be paired with {len(reference)}")
    ours, theirs = finite_samples(challenger), finite_samples(reference)
    low, high = _bounds(np.concatenate([ours, theirs]))
    reach = float(np.abs(ours - theirs).max()) or high - low
    return _t_interval(ours - theirs, [-reach, reach], confidence, low - high, high - low)


def unbounded_mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """The t interval of a mean of seconds, tokens or dollars; None for fewer than MIN_ITEMS values.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    samples = finite_samples(values)
    if len(samples) < MIN_ITEMS:
        return None
    return _t_interval(samples, [], confidence, -math.inf, math.inf)


def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution, by its expansion around the normal one: exact to 0.002 from 9 degrees.

    Fisher and Cornish (1960).
    """
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def _t_interval(samples: Samples, pseudo: Sequence[float], confidence: float, low: float, high: float) -> Interval:
    """The t interval of the mean with pseudo-observations, within the possible values; it contains the estimate."""
    augmented, estimate = np.append(samples, pseudo), float(samples.mean())
    half = t_quantile((1 + confidence) / 2, len(augmented) - 1) * augmented.std(ddof=1) / math.sqrt(len(augmented))
    centre = float(augmented.mean())
    return Interval(
        min(estimate, max(low, float(centre - half))), estimate, max(estimate, min(high, float(centre + half)))
    )


def _wilson_interval(samples: Samples, confidence: float) -> Interval:
    z, count, share = NormalDist().inv_cdf((1 + confidence) / 2), len(samples), float(samples.mean())
    below = 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / below
    half = z / below * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # At 0 and 1, rounding must not put a bound on the wrong side of the share.
    return Interval(min(share, max(0.0, middle - half)), share, max(share, min(1.0, middle + half)))


def _bounds(samples: Samples) -> tuple[float, float]:
    """The range of the scores: 0 to 1, or where a user's scorer goes beyond, what it returned."""
    return min(0.0, float(samples.min())), max(1.0, float(samples.max()))
