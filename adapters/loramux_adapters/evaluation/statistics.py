"""The few statistics that the reports need: quantiles, bootstrap intervals, and ratios of paired measurements."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
RESAMPLES = 2000
_NORMAL = 1.959964  # of the standard normal distribution 95 % lies within this of 0


class Interval(NamedTuple):
    """An estimate between the ends of its confidence interval, all in the samples' unit."""

    low: float
    estimate: float
    high: float


class Spread(NamedTuple):
    """The middle and the ends of a few repeated measurements: too few for an interval."""

    median: float
    minimum: float
    maximum: float


def quantile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile, linear between neighbours. ValueError for no values or a `q` outside 0..1."""
    return float(np.quantile(_samples(values), q))


def quantile_interval(values: Sequence[float], q: float, *, confidence: float = 0.95) -> Interval:
    """The interval of a quantile by order statistics, exact whatever the distribution of independent values is.

    An end for which there are too few values is infinite. ValueError as of `quantile`.
    """
    estimate = quantile(values, q)
    if not 0 < q < 1:
        return Interval(-np.inf, estimate, np.inf)
    samples, tail = np.sort(_samples(values)), (1 - confidence) / 2
    below = _binomial_distribution(len(samples), q)
    # The number of values below the quantile is binomial: the r-th smallest is above it with chance P(fewer than r).
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return Interval(
        float(samples[low - 1]) if low >= 1 else -np.inf,
        estimate,
        float(samples[high - 1]) if high <= len(samples) else np.inf,
    )


def _binomial_distribution(count: int, chance: float) -> Samples:
    """P(at most k) for k = 0 ... count."""
    k = np.arange(1, count + 1)
    steps = np.log((count - k + 1) / k) + np.log(chance / (1 - chance))
    logs = count * np.log1p(-chance) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(np.minimum(np.cumsum(np.exp(logs)), 1.0), dtype=np.float64)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., Samples] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The percentile interval of `statistic`, a numpy reduction that takes `axis`.

    For paired arms, pass the differences of the pairs. ValueError for no values.
    """
    samples = _samples(values)
    drawn = statistic(samples[draws(len(samples), resamples=resamples, seed=seed)], axis=1)
    return percentile_interval(drawn, float(statistic(samples, axis=0)), confidence=confidence)


def draws(count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """`resamples` times which of `count` values are drawn, as many as there are; the same for the same count."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def percentile_interval(drawn: Samples, estimate: float, *, confidence: float = 0.95) -> Interval:
    """The interval of an estimate, of which `drawn` are those of the values drawn anew."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(low), estimate, float(high))


def mean_interval(values: Sequence[float]) -> Interval:
    """The 95 % interval of a mean: Wilson's where all values are 0 or 1, else by bootstrap. ValueError for no values.

    Drawing anew from values that are all equal would tell that nothing is uncertain.
    """
    samples = _samples(values)
    if not np.isin(samples, (0.0, 1.0)).all():
        return bootstrap_interval(values)
    count, share = len(samples), float(samples.mean())
    below = 1 + _NORMAL**2 / count
    middle = (share + _NORMAL**2 / (2 * count)) / below
    half = _NORMAL / below * np.sqrt(share * (1 - share) / count + (_NORMAL / (2 * count)) ** 2)
    # At 0 and 1 rounding must not put an end on the wrong side.
    return Interval(min(share, max(0.0, float(middle - half))), share, max(share, min(1.0, float(middle + half))))


def ratio_of_means(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of `above` over that of `below`, drawn in pairs; None where the latter may be 0."""
    numerators, denominators = _samples(above), _samples(below)
    drawn = draws(len(numerators))
    sums = denominators[drawn].sum(axis=1)
    if not sums.all() or not denominators.sum():
        return None
    return percentile_interval(numerators[drawn].sum(axis=1) / sums, float(numerators.sum() / denominators.sum()))


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum of `values`. ValueError for none."""
    samples = _samples(values)
    return Spread(float(np.median(samples)), float(samples.min()), float(samples.max()))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The spread of `ours[i] / theirs[i]`: dividing pair by pair cancels what slowed both, such as a busy machine.

    ValueError for different lengths, none, or a pair whose second is not positive.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} measurements can't be paired with {len(theirs)}")
    numerator, denominator = _samples(ours), _samples(theirs)
    if (denominator <= 0).any():
        raise ValueError("a ratio needs positive measurements below the line")
    return spread((numerator / denominator).tolist())


def _samples(values: Sequence[float]) -> Samples:
    if not len(values):
        raise ValueError("no measurements")
    samples = np.asarray(values, dtype=np.float64)
    if not np.isfinite(samples).all():
        raise ValueError("a measurement is not a finite number")
    return samples
