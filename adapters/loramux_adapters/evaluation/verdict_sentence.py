"""The verdict on a challenger in a sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.statistics import MIN_ITEMS, Interval
from loramux_adapters.evaluation.verdict import ScoreComparison

_MAX_SAMPLE_CHARACTERS = 60


class SampleAnswer(NamedTuple):
    """An answer of an arm, and the expected one."""

    arm: str
    answer: str
    expected: str


def verdict_sentence(
    compared: ScoreComparison,
    challenger: str,
    reference: str,
    *,
    token_ratio: float | None = None,
    payback: str = "",
    details: str = "",
    items_name: str = "items",
    samples: Sequence[SampleAnswer] = (),
) -> str:
    """Say in a sentence what the comparison allows to conclude.

    `token_ratio` is the challenger's mean prompt tokens over the reference's; `payback` says when the challenger has
    paid for itself, both only where there is a verdict. `details` goes into parentheses at the end, and `samples`,
    wrong answers, are shown if neither works.
    """
    gain, cost = compared.difference, f"{_prompt_tokens(token_ratio)}{payback}"
    estimate, end = _signed(gain), f" ({details})." if details else "."
    match compared.verdict:
        case "better":
            interval = f"{gain.estimate:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
            sentence = f"{challenger} is better than {reference} by {interval}{cost}"
        case "worse":
            interval = f"{-gain.estimate:.2f} [{-gain.high:.2f}, {-gain.low:.2f}]"
            sentence = f"Keep {reference}: {challenger} is worse by {interval}{_prompt_tokens(token_ratio)}"
        case "as good":
            side = "shown to be better, but by less: " if gain.low > 0 else ""
            side = "shown to be worse, but by less: " if gain.high < 0 else side
            sentence = f"{challenger} is as good as {reference} within {compared.margin:g}, {side}{estimate}{cost}"
        case "scorer in doubt":
            end += _examples(samples)
            means = f"{compared.challenger:.2f} for {challenger} and {compared.reference:.2f} for {reference}"
            sentence = f"the scorer is in doubt: {compared.reason}; the scores are {means}"
        case "neither works":
            end += f" Is the scorer right, and do the answers follow from the {items_name}?{_examples(samples)}"
            means = f"{compared.challenger:.2f} and {compared.reference:.2f}"
            sentence = (
                f"neither {challenger} nor {reference} works: on {compared.items} {items_name}, {means} are not above "
                f"{_constant(compared)} by more than {compared.margin:g}"
            )
        case "not enough items":
            sentence = f"{_undecided(compared, challenger, reference, items_name)}{_needed(compared, items_name)}"
    return sentence[0].upper() + sentence[1:] + end


def _undecided(compared: ScoreComparison, challenger: str, reference: str, items_name: str) -> str:
    gain = compared.difference
    if compared.items < MIN_ITEMS:
        difference = f"{challenger} relative to {reference} {_signed(gain)}"
        return f"{compared.items} {items_name} are too few for a verdict: {difference}"
    shown = "no difference is shown" if gain.low <= 0 <= gain.high else "the difference is shown"
    if not compared.beats_constant:
        shown += f", but neither is shown to be above {_constant(compared)}"
    bound = f"; {challenger} is at most {compared.margin:g} worse" if compared.is_not_worse else ""
    between = f"{compared.items} {items_name} do not decide between {challenger} and {reference}"
    return f"{between}: {shown}, {_signed(gain)}{bound}"


def _needed(compared: ScoreComparison, items_name: str) -> str:
    if not compared.items_needed:
        return ""
    if compared.items_needed == MIN_ITEMS:
        return f"; at least {MIN_ITEMS} {items_name} are needed"
    count = _rounded(compared.items_needed)
    return f"; about {count:,} {items_name} would decide, if this difference is the true one"


def _constant(compared: ScoreComparison) -> str:
    return f"the {compared.constant:.2f} of the best single answer to all" if compared.constant > 0 else "0"


def _signed(gain: Interval) -> str:
    return f"{gain.estimate:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def _rounded(count: int) -> int:
    """Round up to two digits: the number rests on the present estimate."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def _examples(samples: Sequence[SampleAnswer]) -> str:
    parts = [
        f"{each.arm} answered {_quoted(each.answer)} where {_quoted(each.expected)} was expected" for each in samples
    ]
    return f" For example, {', and '.join(parts)}." if parts else ""


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line[: _MAX_SAMPLE_CHARACTERS - 1]}…”" if len(line) > _MAX_SAMPLE_CHARACTERS else f"“{line}”"


def _prompt_tokens(ratio: float | None) -> str:
    if not ratio:
        return ""
    if ratio < 1 / 3:
        return f" at 1/{1 / ratio:.0f} of the prompt tokens"
    return f" at {ratio:.2f} times the prompt tokens" if abs(ratio - 1) >= 0.005 else " at the same prompt tokens"
