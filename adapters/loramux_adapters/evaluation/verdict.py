"""The verdict on a challenger: its scores relative to a reference's on the same items, and what they show."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Literal, NamedTuple

from loramux_adapters.evaluation.intervals import difference_interval, mean_interval
from loramux_adapters.evaluation.statistics import MIN_ITEMS, Interval

Verdict = Literal["better", "as good", "worse", "neither works", "scorer in doubt", "not enough items"]
MARGIN = 0.05
"""Differences within +-MARGIN do not matter, unless the caller says otherwise."""
_ALPHA = 0.05
_POWER = 0.8
"""`items_needed` decide with this probability, if the present estimate is the truth."""


class ScoreComparison(NamedTuple):
    """The challenger's mean score minus the reference's, and the verdict.

    `difference` is an interval at `confidence`, which is 0.95 for a single comparison and more for one of several.
    """

    items: int
    challenger: float
    """Mean score of the challenger."""
    reference: float
    """Mean score of the reference."""
    constant: float
    """Mean score of the best constant answer, which is the same for every item."""
    difference: Interval
    verdict: Verdict
    reason: str
    """Why, as a part of a sentence."""
    is_not_worse: bool
    """Whether the challenger is shown to be worse by less than the margin, if at all."""
    items_needed: int | None
    """Items that would decide at the present estimate and spread; None if decided, or if unknown."""
    confidence: float
    margin: float
    beats_constant: bool = True
    """Whether at least one of the two is shown to score higher than the best constant answer."""


def compare_scores(
    challenger: Sequence[float],
    reference: Sequence[float],
    *,
    constant: Sequence[float] = (),
    margin: float = MARGIN,
    comparisons: int = 1,
    doubt: str = "",
) -> ScoreComparison:
    """Compare two variants item by item; scores at the same position belong to the same item.

    `constant` are the scores of the best constant answer, by default 0 for each item. With `comparisons` in one report,
    each is made at a confidence of 1 - 0.05 / comparisons (Bonferroni), so that with 95 % all are right at once.
    `doubt` is a reason to doubt the scorer: where neither works, it is the verdict's.

    Raises:
        ValueError: the lengths differ, there are no scores, or margin or comparisons are not positive.
    """
    if not margin > 0 or comparisons < 1:
        raise ValueError(f"expected a margin above 0 and at least one comparison, not {margin} and {comparisons}")
    items, alpha = len(challenger), _ALPHA / comparisons
    floor = constant or [0.0] * items
    difference = difference_interval(challenger, reference, confidence=1 - alpha)
    narrow = difference_interval(challenger, reference, confidence=1 - 2 * alpha)
    leads = [difference_interval(arm, floor, confidence=1 - alpha) for arm in (challenger, reference)]
    lead, best = max(leads), max(lead.estimate for lead in leads)
    verdict, reason = _decide(items, lead.low, best, difference, narrow, margin)
    if verdict == "neither works" and doubt:
        verdict, reason = "scorer in doubt", doubt
    needed = None
    if verdict == "not enough items":
        needed = _items_needed(items, difference if lead.low > 0 else lead, margin if lead.low > 0 else 0, alpha)
    return ScoreComparison(
        items=items,
        challenger=fmean(challenger),
        reference=fmean(reference),
        constant=fmean(floor),
        difference=difference,
        verdict=verdict,
        reason=reason,
        beats_constant=lead.low > 0,
        is_not_worse=items >= MIN_ITEMS and lead.low > 0 and narrow.low > -margin,
        items_needed=needed,
        confidence=1 - alpha,
        margin=margin,
    )


def score_intervals(scores: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """The 95 % interval of each score's mean, by the scores' names; every answer has the same ones."""
    return {name: mean_interval([each[name] for each in scores]) for name in scores[0]}


def _decide(
    items: int, shown: float, observed: float, wide: Interval, narrow: Interval, margin: float
) -> tuple[Verdict, str]:
    """Return the verdict and its reason.

    The better arm's difference to the best constant answer is at least `shown`, and `observed` in these items.
    """
    if items < MIN_ITEMS:
        return "not enough items", f"fewer than {MIN_ITEMS} items allow no verdict"
    if shown <= 0 and observed <= margin:
        return "neither works", f"neither scores more than {margin:g} higher than one and the same answer to every item"
    if shown <= 0:
        return "not enough items", "neither is shown to score higher than one and the same answer to every item"
    if -margin < narrow.low and narrow.high < margin:
        side = "better, but by " if wide.low > 0 else "worse, but by " if wide.high < 0 else ""
        return "as good", f"the difference is {side}less than the margin of {margin:g}"
    if wide.low > 0:
        return "better", "the whole interval of the difference is above 0"
    if wide.high < 0:
        return "worse", "the whole interval of the difference is below 0"
    return "not enough items", f"the interval of the difference contains 0 and reaches beyond the margin of {margin:g}"


def _items_needed(items: int, difference: Interval, margin: float, alpha: float) -> int | None:
    """The items at which a difference, or its lying within the margin, is shown with a probability of 80 %."""
    z = NormalDist().inv_cdf
    deviation = (difference.high - difference.low) / (2 * z(1 - alpha / 2)) * math.sqrt(items)
    gap, room = abs(difference.estimate), margin - abs(difference.estimate)
    needed = [((z(1 - alpha / 2) + z(_POWER)) * deviation / gap) ** 2] if gap else []
    needed += [((z(1 - alpha) + z((1 + _POWER) / 2)) * deviation / room) ** 2] if room > 0 else []
    return max(MIN_ITEMS, items + 1, math.ceil(min(needed))) if needed else None
