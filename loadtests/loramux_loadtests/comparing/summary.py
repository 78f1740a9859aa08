"""From rows to what they show: each arm with its intervals, the challenger against the reference, and the verdict."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from loramux_loadtests.comparing.costs import MODES, break_even, costs
from loramux_loadtests.comparing.errors import ComparisonError
from loramux_loadtests.comparing.plan import Comparison
from loramux_loadtests.comparing.rows import Row, Turns
from loramux_loadtests.statistics import Interval, bootstrap_interval

Verdict = Literal["better", "as good", "worse"]
MEASURED = ("input_tokens", "cached_tokens", "output_tokens", "ttft", "tpot", "seconds")
"""Of each answer, beside its scores and costs."""
RESAMPLES = 2000
_MUCH = 1.5

_Costs = dict[str, dict[str, list[float]]]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArmSummary(_Shown):
    """One arm in one pass: 95 % intervals of means; None where nothing was measured."""

    scores: dict[str, Interval]
    measured: dict[str, Interval | None]
    costs: dict[str, Interval]
    """US dollars a request, by the ways to count."""


class Paid(_Shown):
    """When the challenger has paid for itself; `requests` is None for never."""

    saving: float
    to_earn: float
    requests: float | None


class PassSummary(_Shown):
    """All arms on the same items; of the challenger its difference in `score`, its measures over the reference's."""

    pass_: str
    seconds: float
    items: int
    arms: dict[str, ArmSummary]
    difference: Interval
    ratios: dict[str, Interval]
    """By MEASURED, and `price_list_cost` and `gpu_hour_cost`."""
    paid: dict[str, Paid]


class Summary(_Shown):
    """What a comparison found. Quality is that of the last pass."""

    name: str
    challenger: str
    reference: str
    score: str
    passes: list[PassSummary]
    unscored: int
    """Answers that the scorer failed on; their items are left out."""
    verdict: Verdict
    sentence: str


def summarize(comparison: Comparison, rows: Sequence[Row], turns: Mapping[tuple[str, str], Turns]) -> Summary:
    """Put the rows of all passes together; ComparisonError if no item was scored in all arms."""
    names = list(dict.fromkeys(row.pass_ for row in rows))
    passes = [
        _pass(
            comparison,
            name,
            [row for row in rows if row.pass_ == name],
            {arm: taken for (pass_, arm), taken in turns.items() if pass_ == name},
        )
        for name in names
    ]
    last = passes[-1]
    score = next(iter(last.arms[comparison.challenger].scores))
    verdict: Verdict = "better" if last.difference.low > 0 else "worse" if last.difference.high < 0 else "as good"
    return Summary(
        name=comparison.name,
        challenger=comparison.challenger,
        reference=comparison.reference,
        score=score,
        passes=passes,
        unscored=sum(not row.scores for row in rows),
        verdict=verdict,
        sentence=_sentence(comparison, verdict, last),
    )


def paired(comparison: Comparison, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each arm by item, of the items that every arm answered and every answer of which was scored."""
    by_arm: dict[str, dict[int, Row]] = {arm.name: {} for arm in comparison.arms}
    for row in rows:
        if row.scores:
            by_arm[row.arm][row.item] = row
    items = sorted(set.intersection(*(set(found) for found in by_arm.values())))
    return {name: [found[item] for item in items] for name, found in by_arm.items()}


def _pass(comparison: Comparison, name: str, rows: Sequence[Row], turns: Mapping[str, Turns]) -> PassSummary:
    arms = paired(comparison, rows)
    items = len(arms[comparison.reference])
    if not items:
        failed = next((row.error for row in rows if row.error), "no item was answered by every arm")
        raise ComparisonError(f"nothing can be compared: {failed}")
    spent = _costs(comparison, arms, turns)
    mine, theirs = arms[comparison.challenger], arms[comparison.reference]
    score = next(iter(mine[0].scores))
    ours, others = spent.get(comparison.challenger, {}), spent.get(comparison.reference, {})
    return PassSummary(
        pass_=name,
        seconds=sum(taken.seconds for taken in turns.values()),
        items=items,
        arms={name: _arm(found, spent.get(name, {})) for name, found in arms.items()},
        difference=bootstrap_interval([a.scores[score] - b.scores[score] for a, b in zip(mine, theirs, strict=True)]),
        ratios=_ratios(mine, theirs) | _cost_ratios(ours, others),
        paid=_paid(comparison, ours, others),
    )


def _costs(comparison: Comparison, arms: Mapping[str, Sequence[Row]], turns: Mapping[str, Turns]) -> _Costs:
    """By arm and way to count, of each request; empty without prices."""
    prices = comparison.prices
    if prices is None:
        return {}
    found = {name: costs(rows, prices, turns.get(name, Turns(0.0, 0))) for name, rows in arms.items()}
    used = [mode for mode in MODES if any(any(by_mode[mode]) for by_mode in found.values())]
    return {name: {mode: by_mode[mode] for mode in used} for name, by_mode in found.items()}


def _arm(rows: Sequence[Row], spent: Mapping[str, Sequence[float]]) -> ArmSummary:
    return ArmSummary(
        scores={name: bootstrap_interval([row.scores[name] for row in rows]) for name in rows[0].scores},
        measured={name: _mean([getattr(row, name) for row in rows]) for name in MEASURED},
        costs={mode: bootstrap_interval(values) for mode, values in spent.items()},
    )


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return bootstrap_interval(known) if known else None


def _ratios(mine: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Interval]:
    ratios = {}
    for name in MEASURED:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(mine, theirs, strict=True)]
        known = [pair for pair in pairs if None not in pair]
        if known and (ratio := ratio_of_means(*zip(*known, strict=True))):
            ratios[name] = ratio
    return ratios


def _cost_ratios(ours: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    ratios = {f"{mode}_cost": ratio_of_means(ours[mode], others[mode]) for mode in ours}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def ratio_of_means(mine: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """The mean of `mine` over that of `theirs`, drawn pair by pair; None where the latter may be 0."""
    above, below = np.asarray(mine, float), np.asarray(theirs, float)
    drawn = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
    sums = below[drawn].sum(axis=1)
    if not sums.all() or not below.sum():
        return None
    low, high = np.quantile(above[drawn].sum(axis=1) / sums, [0.025, 0.975])
    return Interval(float(low), float(above.sum() / below.sum()), float(high))


def _paid(
    comparison: Comparison, ours: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]]
) -> dict[str, Paid]:
    prices, paid = comparison.prices, {}
    for mode in MODES if prices else ():
        if prices and mode in ours and any(others[mode]):
            found = break_even(float(np.mean(ours[mode])), float(np.mean(others[mode])), prices)
            requests = None if found.requests == inf else found.requests
            paid[mode] = Paid(saving=found.saving, to_earn=found.to_earn, requests=requests)
    return paid


def _sentence(comparison: Comparison, verdict: Verdict, last: PassSummary) -> str:
    ours, theirs, gain = comparison.challenger, comparison.reference, last.difference
    shown = f"{abs(gain.estimate):.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
    match verdict:
        case "better":
            return f"“{ours}” is better than “{theirs}” by {shown}{_at(last)}{_pays(last)}."
        case "worse":
            return f"Keep “{theirs}”: “{ours}” is worse by {shown}{_at(last)}."
        case "as good":
            cheaper = any(paid.saving > 0 for paid in last.paid.values())
            what = "as good and cheaper a request" if cheaper else "no gain outside the interval"
            difference = f"{gain.estimate:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
            return f"Keep “{theirs}”, unless cost decides: “{ours}” is {what}, {difference}{_at(last)}{_pays(last)}."


def _at(last: PassSummary) -> str:
    tokens = last.ratios.get("input_tokens")
    if tokens is None or not tokens.estimate:
        return ""
    fewer = 1 / tokens.estimate
    share = f"1/{fewer:.0f} of" if fewer > _MUCH else f"{tokens.estimate:.2f} times"
    return f" at {share} the prompt tokens"


def _pays(last: PassSummary) -> str:
    """When it has paid for itself, by the way to count in which that is known."""
    for mode, paid in last.paid.items():
        if not paid.to_earn:
            continue
        if paid.requests is None:
            return f"; it never pays for itself ({mode.replace('_', ' ')})"
        return f"; it pays for itself after {paid.requests:,.0f} requests ({mode.replace('_', ' ')})"
    return ""
