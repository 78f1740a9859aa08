"""What each arm of a pass scored, took and cost, and its ratios to another arm's."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.intervals import unbounded_mean_interval
from loramux_adapters.evaluation.statistics import Interval, ratio_of_means
from loramux_adapters.evaluation.verdict import score_intervals
from loramux_loadtests.compare.answer_log import Batch, ScoredAnswer
from loramux_loadtests.compare.costs import COST_MODES, CostSamples, cost_per_answer, cost_ratio, cost_samples
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.plan import Comparison

MEASURES = ("input_tokens", "cached_tokens", "output_tokens", "ttft", "tpot", "seconds")
"""Measured for each answer, besides its scores and costs."""

ArmAnswers = Mapping[str, Sequence[ScoredAnswer]]
"""The answers of each arm to the same items in the same order."""
ArmCosts = Mapping[str, CostSamples]
"""The cost of one arm, by COST_MODES."""


class ArmSummary(BaseModel):
    """One arm in one pass: 95 % intervals of means; None where nothing was measured, or for fewer than 10 items."""

    model_config = ConfigDict(frozen=True)

    scores: dict[str, Interval]
    measured: dict[str, Interval | None]
    costs: dict[str, Interval | None]
    """US dollars per request, by COST_MODES."""


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


def arm_costs(
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


def summarize_arm(answers: Sequence[ScoredAnswer], costs: ArmCosts) -> ArmSummary:
    """The means of an arm's scores, measures and costs."""
    return ArmSummary(
        scores=score_intervals([answer.scores for answer in answers]),
        measured={name: _mean([getattr(answer, name) for answer in answers]) for name in MEASURES},
        costs={mode: cost_per_answer(samples) for mode, samples in costs.items()},
    )


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return unbounded_mean_interval(known) if known else None


def ratios(ours: Sequence[ScoredAnswer], theirs: Sequence[ScoredAnswer]) -> dict[str, Interval]:
    """The ratios of means by MEASURES, of paired answers; those that can't be known are left out."""
    found = {}
    for name in MEASURES:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(ours, theirs, strict=True)]
        known = [pair for pair in pairs if None not in pair]
        if known and (ratio := ratio_of_means(*zip(*known, strict=True))):
            found[name] = ratio
    return found


def cost_ratios(ours: ArmCosts, theirs: ArmCosts) -> dict[str, Interval]:
    """The ratios of costs per answer, by COST_MODES with `_cost` appended."""
    found = {f"{mode}_cost": cost_ratio(ours[mode], theirs[mode]) for mode in ours}
    return {name: ratio for name, ratio in found.items() if ratio is not None}
