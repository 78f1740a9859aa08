"""Summary of a comparison: each arm with intervals, every arm relative to the reference, and the verdict."""

from collections.abc import Mapping, Sequence, Set

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.verdict import Verdict
from loramux_adapters.evaluation.verdict_sentence import SampleAnswer, verdict_sentence
from loramux_loadtests.compare.answer_log import Batch, ScoredAnswer
from loramux_loadtests.compare.arms import (
    ArmAnswers,
    ArmSummary,
    arm_costs,
    cost_ratios,
    pair_by_item,
    ratios,
    summarize_arm,
)
from loramux_loadtests.compare.checks import Leak, find_warnings, leaked_items
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.payback import Payback, payback_phrase, paybacks
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.reference import ReferenceChoice, choose_reference
from loramux_loadtests.compare.relative import ArmComparison, compare_arms
from loramux_loadtests.compare.samples import Sample, samples


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class PassSummary(_FrozenModel):
    """All arms on the same items; `difference` and `ratios` are of the challenger relative to the reference."""

    pass_: str
    seconds: float
    items: int
    arms: dict[str, ArmSummary]
    relative: dict[str, ArmComparison] = {}
    """Each arm but the reference relative to it, at the confidence of the whole comparison."""
    difference: Interval
    ratios: dict[str, Interval]
    """By MEASURES, `price_list_cost` and `gpu_hour_cost`."""
    paid: dict[str, Payback]
    """By COST_MODES; the first one counts: a price list, where there is one, as users pay by it."""


_OUTCOME = ("verdict", "reason", "is_not_worse", "items_needed", "margin", "confidence")
"""Fields of an ArmComparison that a ComparisonSummary has for the challenger."""


class ComparisonSummary(_FrozenModel):
    """The outcome of a comparison; what the verdict says, and why, is of the last pass."""

    name: str
    challenger: str
    reference: str
    score: str
    passes: list[PassSummary]
    unscored: int
    """Answers that the scorer failed on; their items are left out."""
    verdict: Verdict
    sentence: str
    reason: str
    is_not_worse: bool
    """Whether the challenger is shown to be worse by less than the margin, if at all."""
    items_needed: int | None
    """About how many items would decide; None if decided, or if unknown."""
    margin: float
    confidence: float
    """Of each difference: with 95 %, all of them are right at once."""
    reference_choice: ReferenceChoice | None
    """None if the reference was named, or is the only other arm."""
    left_out: list[int]
    """Items that do not count: leaks, and those that chose the reference."""
    warnings: list[EvaluationWarning]
    samples: list[Sample]


def summarize(
    comparison: Comparison, answers: Sequence[ScoredAnswer], batches: Mapping[tuple[str, str], Sequence[Batch]]
) -> ComparisonSummary:
    """Summarize the answers of all passes; `batches` are by pass and arm.

    Raises:
        ComparisonError: no item has a score in every arm.
    """
    leaked = leaked_items(comparison)
    by_pass = _sound_answers(comparison, answers, leaked)
    last_pass, last = list(by_pass.items())[-1]
    score = _deciding_score(comparison, last)
    reference, choice = choose_reference(comparison, last, score)
    left_out = {*leaked, *(choice.items if choice else ())}
    judged = {name: _leave_out(left_out, arms) for name, arms in by_pass.items()}
    passes = [
        _summarize_pass(
            comparison,
            name,
            arms,
            {arm: of_arm for (pass_, arm), of_arm in batches.items() if pass_ == name},
            compare_arms(comparison, arms, reference, score),
            reference,
        )
        for name, arms in judged.items()
    ]
    outcome = passes[-1].relative[comparison.challenger]
    return ComparisonSummary(
        name=comparison.name,
        challenger=comparison.challenger,
        reference=reference,
        score=score,
        passes=passes,
        unscored=sum(not answer.scores for answer in answers),
        sentence=_sentence(comparison, passes[-1], judged[last_pass], reference, score),
        reference_choice=choice,
        left_out=sorted(left_out),
        warnings=find_warnings(comparison, judged[last_pass], score),
        samples=samples(comparison, [answer for of_arm in judged[last_pass].values() for answer in of_arm]),
        **{name: getattr(outcome, name) for name in _OUTCOME},
    )


def _sound_answers(
    comparison: Comparison, answers: Sequence[ScoredAnswer], leaked: Mapping[int, Leak]
) -> dict[str, ArmAnswers]:
    """The answers of each pass to the items that every arm answered and no arm knows."""
    if len(leaked) == len(comparison.items):
        raise ComparisonError(f"nothing can be compared: every item is in {next(iter(leaked.values())).source}")
    sound = [answer for answer in answers if answer.item not in leaked]
    return {
        name: pair_by_item(comparison, [answer for answer in sound if answer.pass_ == name])
        for name in dict.fromkeys(answer.pass_ for answer in sound)
    }


def _deciding_score(comparison: Comparison, arms: ArmAnswers) -> str:
    names = list(arms[comparison.challenger][0].scores)
    if comparison.measure is not None and comparison.measure not in names:
        raise ComparisonError(f"unknown measure {comparison.measure!r}; expected one of {', '.join(map(repr, names))}")
    return comparison.measure or names[0]


def _leave_out(left_out: Set[int], arms: ArmAnswers) -> ArmAnswers:
    return {name: [answer for answer in answers if answer.item not in left_out] for name, answers in arms.items()}


def _summarize_pass(
    comparison: Comparison,
    name: str,
    arms: ArmAnswers,
    batches: Mapping[str, Sequence[Batch]],
    relative: dict[str, ArmComparison],
    reference: str,
) -> PassSummary:
    costs = arm_costs(comparison, arms, batches)
    our_costs, their_costs = costs[comparison.challenger], costs[reference]
    outcome = relative[comparison.challenger]
    return PassSummary(
        pass_=name,
        seconds=sum(batch.seconds for of_arm in batches.values() for batch in of_arm),
        items=outcome.items,
        arms={name: summarize_arm(answers, costs[name]) for name, answers in arms.items()},
        relative=relative,
        difference=outcome.difference,
        ratios=ratios(arms[comparison.challenger], arms[reference]) | cost_ratios(our_costs, their_costs),
        paid=paybacks(comparison.prices, our_costs, their_costs) if comparison.prices else {},
    )


def _sentence(comparison: Comparison, last: PassSummary, arms: ArmAnswers, reference: str, score: str) -> str:
    tokens = last.ratios.get("input_tokens")
    pairs = list(zip(arms[comparison.challenger], arms[reference], strict=True))
    worst = min(pairs, key=lambda pair: sum(answer.scores[score] for answer in pair))
    return verdict_sentence(
        last.relative[comparison.challenger].compared(),
        f"“{comparison.challenger}”",
        f"“{reference}”",
        token_ratio=tokens and tokens.estimate,
        payback=payback_phrase(last.paid),
        samples=[
            SampleAnswer(f"“{one.arm}”", one.text, comparison.items[one.item].expected)
            for one in worst
            if one.scores[score] < 1
        ],
    )
