"""Summary of a comparison: each arm with intervals, the challenger relative to the reference, and the verdict."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.statistics import Interval, bootstrap_interval, ratio_of_means
from loramux_adapters.evaluation.verdict import (
    ScoreComparison,
    Verdict,
    compare_scores,
    score_intervals,
    verdict_sentence,
)
from loramux_loadtests.compare.answer_log import Batch, ScoredAnswer
from loramux_loadtests.compare.costs import COST_MODES, CostSamples, cost_per_answer, cost_ratio, cost_samples
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.payback import Payback, payback_phrase, paybacks
from loramux_loadtests.compare.plan import Comparison

MEASURES = ("input_tokens", "cached_tokens", "output_tokens", "ttft", "tpot", "seconds")
"""Measured for each answer, besides its scores and costs."""

ArmAnswers = Mapping[str, Sequence[ScoredAnswer]]
ArmCosts = Mapping[str, CostSamples]
"""The cost of one arm, by COST_MODES."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArmSummary(_FrozenModel):
    """One arm in one pass: 95 % intervals of means; None where nothing was measured."""

    scores: dict[str, Interval]
    measured: dict[str, Interval | None]
    costs: dict[str, Interval]
    """US dollars per request, by COST_MODES."""


class PassSummary(_FrozenModel):
    """All arms on the same items; `difference` and `ratios` are of the challenger relative to the reference."""

    pass_: str
    seconds: float
    items: int
    arms: dict[str, ArmSummary]
    difference: Interval
    ratios: dict[str, Interval]
    """By MEASURES, `price_list_cost` and `gpu_hour_cost`."""
    paid: dict[str, Payback]
    """By COST_MODES; the first one counts: a price list, where there is one, as users pay by it."""


class ComparisonSummary(_FrozenModel):
    """The outcome of a comparison; score, verdict and sentence are of the last pass."""

    name: str
    challenger: str
    reference: str
    score: str
    passes: list[PassSummary]
    unscored: int
    """Answers that the scorer failed on; their items are left out."""
    verdict: Verdict
    sentence: str


def summarize(
    comparison: Comparison, answers: Sequence[ScoredAnswer], batches: Mapping[tuple[str, str], Sequence[Batch]]
) -> ComparisonSummary:
    """Summarize the answers of all passes; `batches` are by pass and arm.

    Raises:
        ComparisonError: no item has a score in every arm.
    """
    passes = []
    for name in dict.fromkeys(answer.pass_ for answer in answers):
        arms = pair_by_item(comparison, [answer for answer in answers if answer.pass_ == name])
        arm_batches = {arm: of_arm for (pass_, arm), of_arm in batches.items() if pass_ == name}
        passes.append(_summarize_pass(comparison, name, arms, arm_batches))
    last = passes[-1]
    compared = _compare_scores(comparison, arms)
    tokens = last.ratios.get("input_tokens")
    return ComparisonSummary(
        name=comparison.name,
        challenger=comparison.challenger,
        reference=comparison.reference,
        score=next(iter(last.arms[comparison.challenger].scores)),
        passes=passes,
        unscored=sum(not answer.scores for answer in answers),
        verdict=compared.verdict,
        sentence=verdict_sentence(
            compared,
            f"“{comparison.challenger}”",
            f"“{comparison.reference}”",
            token_ratio=tokens and tokens.estimate,
            payback=payback_phrase(last.paid),
        ),
    )


def pair_by_item(comparison: Comparison, answers: Sequence[ScoredAnswer]) -> dict[str, list[ScoredAnswer]]:
    """The answers of each arm to the items that have a score in every arm, in the same order of items.

    Raises:
        ComparisonError: there is no such item.
    """
    by_arm: dict[str, dict[int, ScoredAnswer]] = {arm.name: {} for arm in comparison.arms}
    for answer in answers:
        if answer.scores:
            by_arm[answer.arm][answer.item] = answer
    items = sorted(set.intersection(*(set(by_item) for by_item in by_arm.values())))
    if not items:
        reason = next((answer.error for answer in answers if answer.error), "no item was answered by every arm")
        raise ComparisonError(f"nothing can be compared: {reason}")
    return {name: [by_item[item] for item in items] for name, by_item in by_arm.items()}


def _compare_scores(comparison: Comparison, arms: ArmAnswers) -> ScoreComparison:
    ours, theirs = arms[comparison.challenger], arms[comparison.reference]
    score = next(iter(ours[0].scores))
    return compare_scores([answer.scores[score] for answer in ours], [answer.scores[score] for answer in theirs])


def _summarize_pass(
    comparison: Comparison, name: str, arms: ArmAnswers, batches: Mapping[str, Sequence[Batch]]
) -> PassSummary:
    costs = _arm_costs(comparison, arms, batches)
    our_costs, their_costs = costs[comparison.challenger], costs[comparison.reference]
    compared = _compare_scores(comparison, arms)
    return PassSummary(
        pass_=name,
        seconds=sum(batch.seconds for of_arm in batches.values() for batch in of_arm),
        items=compared.items,
        arms={name: _summarize_arm(answers, costs[name]) for name, answers in arms.items()},
        difference=compared.difference,
        ratios=_ratios(arms[comparison.challenger], arms[comparison.reference]) | _cost_ratios(our_costs, their_costs),
        paid=paybacks(comparison.prices, our_costs, their_costs) if comparison.prices else {},
    )


def _arm_costs(
    comparison: Comparison, arms: ArmAnswers, batches: Mapping[str, Sequence[Batch]]
) -> dict[str, dict[str, CostSamples]]:
    """The costs of each arm by the modes that are known for every arm, and by which any arm costs something."""
    if comparison.prices is None:
        return {name: {} for name in arms}
    costs = {
        arm.name: cost_samples(
            arms[arm.name], batches.get(arm.name, ()), comparison.prices, arm.model, comparison.base_model
        )
        for arm in comparison.arms
    }
    modes = [
        mode
        for mode in COST_MODES
        if all(mode in by_mode for by_mode in costs.values())
        and any(by_mode[mode].dollars.any() for by_mode in costs.values())
    ]
    return {name: {mode: by_mode[mode] for mode in modes} for name, by_mode in costs.items()}


def _summarize_arm(answers: Sequence[ScoredAnswer], costs: ArmCosts) -> ArmSummary:
    return ArmSummary(
        scores=score_intervals([answer.scores for answer in answers]),
        measured={name: _mean([getattr(answer, name) for answer in answers]) for name in MEASURES},
        costs={mode: cost_per_answer(samples) for mode, samples in costs.items()},
    )


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return bootstrap_interval(known) if known else None


def _ratios(ours: Sequence[ScoredAnswer], theirs: Sequence[ScoredAnswer]) -> dict[str, Interval]:
    ratios = {}
    for name in MEASURES:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(ours, theirs, strict=True)]
        known = [pair for pair in pairs if None not in pair]
        if known and (ratio := ratio_of_means(*zip(*known, strict=True))):
            ratios[name] = ratio
    return ratios


def _cost_ratios(ours: ArmCosts, theirs: ArmCosts) -> dict[str, Interval]:
    ratios = {f"{mode}_cost": cost_ratio(ours[mode], theirs[mode]) for mode in ours}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}
