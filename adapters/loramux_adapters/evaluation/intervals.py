"""Confidence intervals of mean scores and of paired differences, sound for few items and for equal scores.

All are t intervals of the data with two pseudo-observations, one at each end of what is possible. For paired answers
that are right or wrong this is Bonett and Price's interval (2012); without pseudo-observations, equal scores would have
an interval of no width. `python -m benchmarks.coverage` simulates how often the intervals contain the truth, and
docs/how-we-measure.md explains them.
"""

import math
from collections.abc import Sequence

import numpy as np

from loramux_adapters.evaluation.statistics import MIN_ITEMS, Interval, Samples, finite_samples, t_quantile


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """The interval of the mean of scores from 0 to 1.

    Raises:
        ValueError: there are no scores, or one is not finite.
    """
    samples = finite_samples(scores)
    return _t_interval(samples, _range(samples), confidence)


def difference_interval(
    challenger: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """The interval of mean(challenger) - mean(reference), for scores from 0 to 1 that are paired by item.

    Raises:
        ValueError: the lengths differ, there are no scores, or one is not finite.
    """
    if len(challenger) != len(reference):
        raise ValueError(f"{len(challenger)} scores can't be paired with {len(reference)}")
    ours, theirs = finite_samples(challenger), finite_samples(reference)
    low, high = _range(np.concatenate([ours, theirs]))
    return _t_interval(ours - theirs, (low - high, high - low), confidence)


def unbounded_mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """The t interval of a mean of seconds, tokens or dollars; None for fewer than MIN_ITEMS values.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    samples = finite_samples(values)
    return _t_interval(samples, None, confidence) if len(samples) >= MIN_ITEMS else None


def _t_interval(samples: Samples, ends: tuple[float, float] | None, confidence: float) -> Interval:
    """The t interval of the mean, with a pseudo-observation at each of `ends`; it contains the estimate."""
    low, high = ends or (-math.inf, math.inf)
    observed, estimate = np.append(samples, ends or ()), float(samples.mean())
    deviation = float(observed.std(ddof=1)) / math.sqrt(len(observed))
    half, centre = t_quantile((1 + confidence) / 2, len(observed) - 1) * deviation, float(observed.mean())
    return Interval(min(estimate, max(low, centre - half)), estimate, max(estimate, min(high, centre + half)))


def _range(scores: Samples) -> tuple[float, float]:
    """The possible scores: 0 to 1, and where a user's scorer went beyond, to what it returned."""
    return min(0.0, float(scores.min())), max(1.0, float(scores.max()))
