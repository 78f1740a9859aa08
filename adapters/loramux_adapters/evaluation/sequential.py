"""Always-valid intervals for scores in 0..1: they may be looked at after every unit, and an experiment stopped at any.

A fixed-sample interval that is looked at again and again excludes the truth sooner or later. These do not: under the
assumptions below, the probability that one of them *ever* excludes the truth is at most 1 - confidence, however often
and for whatever reason one looks (Ville's inequality).

Method: the capital of a gambler who bets against "the mean is m". A bet of `stake` multiplies it by
1 + stake * (score - m) if he expects more than m, or by 1 - stake * (score - m) if less. Under a true mean m this is a
fair game, so that the capital ever exceeds 1 / alpha with a probability of at most alpha (Waudby-Smith and Ramdas,
2024, "Estimating means of bounded random variables by betting"). The gambler spreads his capital over several stakes
and both directions at the start, so the order of the units does not matter.

For the difference of two variants, a bet is made on each of them against the means (m, m + difference), and the
smallest capital over all m must exceed 1 / alpha. Most of the capital is on opposite bets, in proportion to the planned
shares of the variants, so that m cancels out.

Assumptions: units are independent, and within a variant their expected score is the same at all times. A unit is what
was assigned at random: a user, not each of the user's requests. Nothing is assumed about the distribution of scores,
and nothing is asymptotic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from loramux_adapters.evaluation.statistics import Interval

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

CONFIDENCE = 0.95
BINS = 40
"""Scores are kept as a histogram with BINS + 1 values from 0 to 1. A score between two of them counts for both in
proportion; as the logarithm is concave, this can only lower the capital, so it never makes an interval too narrow."""
CELLS = 250
"""Means are looked at in cells of 1 / CELLS; each interval is wider by the size of one or two cells, never narrower."""

_FRACTIONS = np.geomspace(0.008, 0.95, 10)
"""Stakes against one mean, as fractions of the largest: small ones find small differences, large ones decide early."""
_STAKES = np.geomspace(0.03, 2.5, 8)
"""Stakes against a difference, before they are divided among the variants."""
_MAX_FRACTION = 0.95
_ON_DIFFERENCE = 0.9
"""Share of the capital that is bet on the difference itself; the rest is bet on each variant's mean."""


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """How often each score occurred, as weights at BINS + 1 values, shape (BINS + 1,); and the sum of the scores."""

    weights: Floats
    total: float

    @classmethod
    def of(cls, scores: Iterable[float]) -> "ScoreCounts":
        """Count scores.

        Raises:
            ValueError: a score is not a number from 0 to 1.
        """
        values = _valid(list(scores))
        low = np.minimum((values * BINS).astype(np.int64), BINS - 1)
        share = values * BINS - low
        weights = np.bincount(low, 1 - share, BINS + 1) + np.bincount(low + 1, share, BINS + 1)
        return cls(np.asarray(weights, dtype=np.float64), float(values.sum()))

    @property
    def units(self) -> int:
        """The number of scores."""
        return round(float(self.weights.sum()))

    @property
    def mean(self) -> float:
        """The mean score; 0 without scores."""
        return self.total / self.units if self.units else 0.0

    def scaled(self, factor: float) -> "ScoreCounts":
        """Return what `factor` times as many units with the same scores would be: for planning."""
        return ScoreCounts(self.weights * factor, self.total * factor)


def mean_interval(scores: ScoreCounts, confidence: float = CONFIDENCE) -> Interval:
    """The always-valid interval of the mean score; 0 to 1 without scores."""
    kept = np.flatnonzero(_capital_against_means(scores) < -np.log(1 - confidence))
    # The mean of the scores is never excluded: the logarithm is concave, so all bets together lose against it.
    return Interval(float(kept[0]) / CELLS, scores.mean if scores.units else 0.5, float(kept[-1] + 1) / CELLS)


def difference_interval(
    challenger: ScoreCounts,
    reference: ScoreCounts,
    *,
    challenger_share: float = 0.5,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The always-valid interval of the challenger's mean minus the reference's, for units assigned at random.

    `challenger_share` is the share of units that was planned for the challenger before the first one, between 0 and 1:
    it may not depend on the scores. A wrong one makes intervals wider, not wrong.
    """
    limit, estimate = -np.log(1 - confidence), challenger.mean - reference.mean
    capital = _capital_against_means(challenger)[:, np.newaxis] + _capital_against_means(reference)
    capital += np.log(1 - _ON_DIFFERENCE)
    upper, lower = np.nonzero(capital < limit)
    with_difference = _capital_against_differences(challenger, reference, challenger_share, upper, lower)
    cells = (upper - lower)[np.logaddexp(capital[upper, lower], with_difference + np.log(_ON_DIFFERENCE)) < limit]
    low, high = float(cells.min() - 1) / CELLS, float(cells.max() + 1) / CELLS
    return Interval(max(-1.0, low), estimate, min(1.0, high))


def paired_counts(challenger: Sequence[float], reference: Sequence[float]) -> ScoreCounts:
    """Count (1 + challenger - reference) / 2 of each pair: both variants answered the same request.

    Raises:
        ValueError: the lengths differ, or a score is not a number from 0 to 1.
    """
    if len(challenger) != len(reference):
        raise ValueError(f"{len(challenger)} scores can't be paired with {len(reference)}")
    return ScoreCounts.of(((1 + _valid(challenger) - _valid(reference)) / 2).tolist())


def difference_of_pairs(halves: ScoreCounts, confidence: float = CONFIDENCE) -> Interval:
    """The always-valid interval of a difference whose pairs `paired_counts` has counted."""
    low, middle, high = mean_interval(halves, confidence)
    return Interval(2 * low - 1, 2 * middle - 1, 2 * high - 1)


def _valid(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # false for NaN as well
        raise ValueError("a score must be a number from 0 to 1")
    return values


def _capital_against_means(scores: ScoreCounts) -> Floats:
    """The log of the capital against each cell of means, shape (CELLS,): the smallest of all means in the cell.

    A bet on more loses as m grows, a bet on less gains, so each is computed at its worse end of the cell.
    """
    table = _mean_factors()
    more, less = table @ scores.weights, table @ scores.weights[::-1]  # a bet on less is one on more of 1 - score
    return np.asarray(np.logaddexp(_log_mean_exp(more), _log_mean_exp(less[:, ::-1])) - np.log(2))


def _capital_against_differences(
    challenger: ScoreCounts, reference: ScoreCounts, share: float, upper: Indices, lower: Indices
) -> Floats:
    """The log of the capital of opposite bets against pairs of cells, the challenger's `upper` and the reference's."""
    ours, theirs = _opposite_factors(1 - share), _opposite_factors(share)
    more = (ours @ challenger.weights)[:, upper] + (theirs @ reference.weights[::-1])[:, ::-1][:, lower]
    less = (ours @ challenger.weights[::-1])[:, ::-1][:, upper] + (theirs @ reference.weights)[:, lower]
    return np.asarray(np.logaddexp(_log_mean_exp(more), _log_mean_exp(less)) - np.log(2))


_UPPER_ENDS = np.arange(1, CELLS + 1)[:, np.newaxis] / CELLS
_VALUES = np.arange(BINS + 1) / BINS


@cache
def _mean_factors() -> Floats:
    """Logs of a unit's factor when betting on more than a cell, shape (fractions, CELLS, BINS + 1)."""
    return np.log1p(_FRACTIONS[:, np.newaxis, np.newaxis] * (_VALUES / _UPPER_ENDS - 1))


@lru_cache(64)
def _opposite_factors(other_share: float) -> Floats:
    """As `_mean_factors`, with the stakes of a variant whose counterpart has `other_share` of the units.

    Stakes are inversely proportional to the shares, so that both variants together neither gain nor lose by m.
    """
    stakes = np.minimum(_STAKES[:, np.newaxis, np.newaxis] * 2 * other_share, _MAX_FRACTION / _UPPER_ENDS)
    return np.log1p(stakes * (_VALUES - _UPPER_ENDS))


def _log_mean_exp(logs: Floats) -> Floats:
    """The log of the mean over the stakes, shape (stakes, ...) to (...)."""
    largest = logs.max(axis=0)
    return np.asarray(largest + np.log(np.exp(logs - largest).mean(axis=0)))  # four times as quick as logaddexp.reduce
