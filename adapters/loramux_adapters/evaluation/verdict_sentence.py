"""The verdict on a challenger in a sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.statistics import MIN_ITEMS
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
    paid for itself, `details` goes into parentheses at the end, and `samples` are shown if neither works.
    """
    gain, cost = compared.difference, _prompt_tokens(token_ratio)
    interval, end = f"[{gain.low:+.2f}, {gain.high:+.2f}]", f" ({details})." if details else "."
    needed = f"; about {_rounded(compared.items_needed):,} {items_name} would decide" if compared.items_needed else ""
    match compared.verdict:
        case "better":
            sentence = f"{challenger} is better than {reference} by {gain.estimate:.2f} {interval}{cost}{payback}"
        case "as good":
            within = f"within {compared.margin:g}: {gain.estimate:+.2f} {interval}"
            sentence = f"{challenger} is as good as {reference}, {within}{cost}{payback}"
        case "worse":
            sentence = f"Keep {reference}: {challenger} is worse by {-gain.estimate:.2f} {interval}{cost}"
        case "neither works":
            is_above = max(compared.challenger, compared.reference) > compared.constant
            means = f"{compared.challenger:.2f} and {compared.reference:.2f} are not {'shown to be ' * is_above}above"
            end += f" Is the scorer right?{_examples(samples)}"
            sentence = (
                f"neither {challenger} nor {reference} works: on {compared.items} {items_name}, {means} the "
                f"{compared.constant:.2f} of one and the same answer to all"
            )
        case "not enough items" if compared.items < MIN_ITEMS:
            difference = f"{challenger} relative to {reference} {gain.estimate:+.2f} {interval}"
            sentence = f"{compared.items} {items_name} are too few for a verdict: {difference}{needed}"
        case "not enough items":
            shown = "no difference is shown" if gain.low <= 0 <= gain.high else "the difference is shown"
            if not compared.beats_constant:
                shown += f", but neither is shown to beat the {compared.constant:.2f} of one and the same answer to all"
            bound = f"; {challenger} is at most {compared.margin:g} worse" if compared.is_not_worse else ""
            sentence = (
                f"{compared.items} {items_name} do not decide between {challenger} and {reference}{cost}: {shown}, "
                f"{gain.estimate:+.2f} {interval}{bound}{needed}"
            )
    return sentence[0].upper() + sentence[1:] + end


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
