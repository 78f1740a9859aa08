"""From rows to what they show: each arm with its intervals, the challenger against the reference, and the verdict."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.statistics import Interval, bootstrap_interval, mean_interval, ratio_of_means
from loramux_loadtests.compare import costs
from loramux_loadtests.compare.costs import MODES, Prices, Spent
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.rows import Row, Turn

Verdict = Literal["better", "no difference shown", "worse", "too few items"]
MEASURED = ("input_tokens", "cached_tokens", "output_tokens", "ttft", "tpot", "seconds")
"""Of each answer, beside its scores and costs."""
FEWEST_ITEMS = 10
"""With fewer, an interval by drawing anew is too narrow to rest a verdict on."""
FEWEST_PIECES = 5
"""The same for costs, whose pieces are turns or answers."""


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArmSummary(_Shown):
    """One arm in one pass: 95 % intervals of means; None where nothing was measured."""

    scores: dict[str, Interval]
    measured: dict[str, Interval | None]
    costs: dict[str, Interval]
    """US dollars a request, by the ways to count."""


class Requests(NamedTuple):
    """How many it takes; None where it never comes to that."""

    fewest: float | None
    estimate: float | None
    most: float | None


class Paid(_Shown):
    """When the challenger has paid for itself within its first month, by what it saves with a request."""

    saving: Interval
    to_earn: float
    """For its making, and for keeping it that month."""
    monthly: bool
    """Whether keeping it costs anything, which it has to earn again every month."""
    requests: Requests


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
    """By the ways to count; the first is the one that counts: a list of prices is what is paid, where there is one."""


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


def summarize(comparison: Comparison, rows: Sequence[Row], turns: Mapping[tuple[str, str], Sequence[Turn]]) -> Summary:
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
    verdict = _verdict(last)
    return Summary(
        name=comparison.name,
        challenger=comparison.challenger,
        reference=comparison.reference,
        score=next(iter(last.arms[comparison.challenger].scores)),
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


def _pass(comparison: Comparison, name: str, rows: Sequence[Row], turns: Mapping[str, Sequence[Turn]]) -> PassSummary:
    arms = paired(comparison, rows)
    mine, theirs = arms[comparison.challenger], arms[comparison.reference]
    if not mine:
        failed = next((row.error for row in rows if row.error), "no item was answered by every arm")
        raise ComparisonError(f"nothing can be compared: {failed}")
    spent = _spent(comparison.prices, arms, turns)
    ours, others = spent[comparison.challenger], spent[comparison.reference]
    score = next(iter(mine[0].scores))
    return PassSummary(
        pass_=name,
        seconds=sum(turn.seconds for taken in turns.values() for turn in taken),
        items=len(mine),
        arms={name: _arm(found, spent[name]) for name, found in arms.items()},
        difference=bootstrap_interval([a.scores[score] - b.scores[score] for a, b in zip(mine, theirs, strict=True)]),
        ratios=_ratios(mine, theirs) | _cost_ratios(ours, others),
        paid=_paid(comparison.prices, ours, others),
    )


def _spent(
    prices: Prices | None, arms: Mapping[str, Sequence[Row]], turns: Mapping[str, Sequence[Turn]]
) -> dict[str, dict[str, Spent]]:
    """By arm and way to count: those ways that are known of every arm, and in which any costs something."""
    if prices is None:
        return {name: {} for name in arms}
    found = {name: costs.spent(rows, prices, turns.get(name, ())) for name, rows in arms.items()}
    used = [
        mode
        for mode in MODES
        if all(mode in by_mode for by_mode in found.values())
        and any(by_mode[mode].dollars.any() for by_mode in found.values())
    ]
    return {name: {mode: by_mode[mode] for mode in used} for name, by_mode in found.items()}


def _arm(rows: Sequence[Row], spent: Mapping[str, Spent]) -> ArmSummary:
    return ArmSummary(
        scores={name: mean_interval([row.scores[name] for row in rows]) for name in rows[0].scores},
        measured={name: _mean([getattr(row, name) for row in rows]) for name in MEASURED},
        costs={mode: costs.mean(each) for mode, each in spent.items()},
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


def _cost_ratios(ours: Mapping[str, Spent], others: Mapping[str, Spent]) -> dict[str, Interval]:
    ratios = {f"{mode}_cost": costs.ratio(ours[mode], others[mode]) for mode in ours}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _paid(prices: Prices | None, ours: Mapping[str, Spent], others: Mapping[str, Spent]) -> dict[str, Paid]:
    if prices is None:
        return {}
    to_earn = prices.training + prices.month
    enough = [mode for mode in ours if min(len(ours[mode].dollars), len(others[mode].dollars)) >= FEWEST_PIECES]
    savings = {mode: costs.saving(ours[mode], others[mode]) for mode in enough}
    return {
        mode: Paid(
            saving=saving,
            to_earn=to_earn,
            monthly=prices.month > 0,
            requests=Requests(*(to_earn / each if each > 0 else None for each in reversed(saving))),
        )
        for mode, saving in savings.items()
    }


def _verdict(last: PassSummary) -> Verdict:
    if last.items < FEWEST_ITEMS:
        return "too few items"
    if last.difference.low > 0:
        return "better"
    return "worse" if last.difference.high < 0 else "no difference shown"


def _sentence(comparison: Comparison, verdict: Verdict, last: PassSummary) -> str:
    ours, theirs, gain = f"“{comparison.challenger}”", f"“{comparison.reference}”", last.difference
    ends = f"[{gain.low:+.2f}, {gain.high:+.2f}]"
    match verdict:
        case "better":
            return f"{ours} is better than {theirs} by {gain.estimate:.2f} {ends}{_at(last)}{_pays(last)}."
        case "worse":
            return f"Keep {theirs}: {ours} is worse by {-gain.estimate:.2f} {ends}{_at(last)}."
        case "too few items":
            return f"{last.items} items are too few for a verdict: {ours} over {theirs} {gain.estimate:+.2f} {ends}."
        case "no difference shown":
            shown = f"no difference in quality is shown, {gain.estimate:+.2f} {ends}"
            return f"Keep {theirs}, unless cost decides: of {ours} {shown}{_at(last)}{_pays(last)}."


def _at(last: PassSummary) -> str:
    tokens = last.ratios.get("input_tokens")
    if tokens is None or not tokens.estimate:
        return ""
    share = f"1/{1 / tokens.estimate:.0f} of" if tokens.estimate < 1 / 3 else f"{tokens.estimate:.2f} times"
    return f" at {share} the prompt tokens"


def _pays(last: PassSummary) -> str:
    """When it has paid for itself, by the way to count that counts."""
    if not last.paid:
        return ""
    mode, paid = next(iter(last.paid.items()))
    way, (fewest, estimate, most) = mode.replace("_", " "), paid.requests
    if not paid.to_earn:
        return f"; a request is cheaper ({way})" if paid.saving.low > 0 else ""
    if fewest is None:
        return f"; it never pays for itself ({way})"
    if estimate is None or most is None:
        return f"; that it ever pays for itself is not shown ({way})"
    when = " in its first month" if paid.monthly else ""
    return f"; it pays for itself after {estimate:,.0f} [{fewest:,.0f}, {most:,.0f}] requests{when} ({way})"
