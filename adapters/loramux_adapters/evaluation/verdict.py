"""The verdict on a challenger: its scores against a reference's on the same items, as an interval and a sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from loramux_adapters.evaluation.statistics import Interval, bootstrap_interval, mean_interval

Verdict = Literal["better", "no difference shown", "worse", "too few items"]
MIN_ITEMS = 10
"""With fewer, a bootstrap interval is too narrow to base a verdict on."""


class ScoreComparison(NamedTuple):
    """The challenger's mean score minus the reference's, and the verdict by its interval."""

    items: int
    difference: Interval
    verdict: Verdict


def compare_scores(challenger: Sequence[float], reference: Sequence[float]) -> ScoreComparison:
    """Compare the scores of two variants pair by pair; scores at the same position belong to the same item.

    Raises:
        ValueError: the lengths differ, or there are no scores.
    """
    difference = bootstrap_interval([ours - theirs for ours, theirs in zip(challenger, reference, strict=True)])
    return ScoreComparison(len(challenger), difference, _verdict(difference, len(challenger)))


def _verdict(difference: Interval, items: int) -> Verdict:
    if items < MIN_ITEMS:
        return "too few items"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference shown"


def score_intervals(scores: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """The 95 % interval of each score's mean, by the scores' names; every answer has the same ones."""
    return {name: mean_interval([each[name] for each in scores]) for name in scores[0]}


def verdict_sentence(
    compared: ScoreComparison,
    challenger: str,
    reference: str,
    *,
    token_ratio: float | None = None,
    payback: str = "",
    details: str = "",
    items_name: str = "items",
) -> str:
    """Say in a sentence which of the two to use.

    `token_ratio` is the challenger's mean prompt tokens over the reference's; `payback` says when the challenger has
    paid for itself, and `details` goes into parentheses at the end.
    """
    gain, tokens = compared.difference, _prompt_tokens(token_ratio)
    interval, end = f"[{gain.low:+.2f}, {gain.high:+.2f}]", f" ({details})." if details else "."
    match compared.verdict:
        case "better":
            sentence = f"{challenger} is better than {reference} by {gain.estimate:.2f} {interval}{tokens}{payback}"
        case "worse":
            sentence = f"Keep {reference}: {challenger} is worse by {-gain.estimate:.2f} {interval}{tokens}"
        case "too few items":
            difference = f"{challenger} relative to {reference} {gain.estimate:+.2f} {interval}"
            sentence = f"{compared.items} {items_name} are too few for a verdict: {difference}"
        case "no difference shown":
            shown = f"for {challenger} no difference in quality is shown, {gain.estimate:+.2f} {interval}"
            sentence = f"Keep {reference}, unless cost decides: {shown}{tokens}{payback}"
    return sentence[0].upper() + sentence[1:] + end


def _prompt_tokens(ratio: float | None) -> str:
    if not ratio:
        return ""
    if ratio < 1 / 3:
        return f" at 1/{1 / ratio:.0f} of the prompt tokens"
    return f" at {ratio:.2f} times the prompt tokens" if abs(ratio - 1) >= 0.005 else " at the same prompt tokens"
