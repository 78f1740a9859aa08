"""The verdict of an experiment from its scores so far, which may be looked at any time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from loramux_adapters.evaluation.statistics import Interval

SequentialVerdict = Literal["better", "as good", "not worse", "worse", "undecided"]
NOT_WORSE: tuple[SequentialVerdict, ...] = ("better", "as good", "not worse")
"""The verdicts that exclude that the challenger is worse by the margin or more."""
MAX_FACTOR = 1000.0
"""How many times the present number of units a plan looks ahead."""


@dataclass(frozen=True)
class Quality:
    """The challenger's mean score minus the reference's, and the verdict by its always-valid interval.

    `units_needed` is about the number of scored units of both variants with which an undecided experiment would be
    decided if the scores go on as so far; None if it is decided, or would not be within MAX_FACTOR times as many.
    """

    difference: Interval
    verdict: SequentialVerdict
    units: int
    units_needed: int | None


def judge(units: int, interval_at: Callable[[float], Interval], margin: float) -> Quality:
    """Return the verdict; `interval_at(k)` is the interval with k times as many units that have the same scores."""
    difference = interval_at(1.0)
    verdict = verdict_of(difference, margin)
    needed = _units_needed(units, interval_at, margin) if verdict == "undecided" and units else None
    return Quality(difference, verdict, units, needed)


def verdict_of(difference: Interval, margin: float) -> SequentialVerdict:
    """Return what an interval shows: the statement holds for all values in it.

    As in other comparisons, a difference that is shown, but lies within the margin, is "as good".
    """
    if -margin < difference.low and difference.high < margin:
        return "as good"
    if difference.low > 0:
        return "better"
    if difference.low > -margin:
        return "not worse"
    return "worse" if difference.high < 0 else "undecided"


def _units_needed(units: int, interval_at: Callable[[float], Interval], margin: float) -> int | None:
    def is_decided(factor: float) -> bool:
        return verdict_of(interval_at(factor), margin) != "undecided"

    low, high = 1.0, 4.0
    while not is_decided(high):
        low, high = high, 4 * high
        if high > MAX_FACTOR:
            return None
    while high / low > 1.1:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_decided(middle) else (middle, high)
    return round(units * high)


def sentence(quality: Quality, challenger: str, reference: str, margin: float) -> str:
    """Say in a sentence what is known."""
    low, estimate, high = quality.difference
    interval = f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]"
    match quality.verdict:
        case "better":
            return f"{challenger} is better than {reference}: {interval}."
        case "as good":
            return f"{challenger} is as good as {reference}, within {margin:g}: {interval}."
        case "not worse":
            return f"{challenger} is not worse than {reference} by {margin:g} or more: {interval}."
        case "worse":
            return f"{challenger} is worse than {reference}: {interval}."
    if not quality.units:
        return "Undecided: no answer has a score yet."
    if quality.units_needed is None:
        return f"Undecided: {interval}; no number of units in reach would decide it if scores go on like this."
    return (
        f"Undecided: {interval} from {quality.units} units; about {quality.units_needed} would decide it "
        "if scores go on like this."
    )
