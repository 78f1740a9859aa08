"""Makes the summary of an evaluation from its answers."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from loramux_adapters.evaluation.answer_checks import CheckedAnswer, check_answers, scorer_doubt
from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.prompts import Prompt
from loramux_adapters.evaluation.token_moments import TokenCounts, TokenMoments
from loramux_adapters.evaluation.verdict import ScoreComparison, compare_scores, score_intervals
from loramux_adapters.evaluation.verdict_sentence import SampleAnswer as QuotedAnswer
from loramux_adapters.evaluation.verdict_sentence import verdict_sentence
from loramux_adapters.finetuning.jobs.baseline import Baseline
from loramux_adapters.finetuning.jobs.evaluation_plan import EvaluationPlan
from loramux_adapters.finetuning.jobs.evaluation_summary import (
    ADAPTER,
    START,
    ArmScores,
    EvaluationSummary,
    SampleAnswer,
    ScoredCompletion,
    StartComparison,
)

_FIRST_MESSAGES, _LAST_MESSAGES = 7, 3
"""Messages of a long prompt that a sample keeps."""
_MAX_CHARACTERS = 2000
"""Characters of a long message that a sample keeps: every list of jobs has them."""

ArmAnswers = Mapping[str, Sequence[ScoredCompletion]]
"""The answers of each arm, in the order of the questions."""


def summarize(
    answers: Sequence[ScoredCompletion], plan: EvaluationPlan, baseline: Baseline, margin: float
) -> EvaluationSummary:
    """Compare the adapter with the baseline, question by question.

    Raises:
        ValueError: the arms did not answer the same number of questions.
    """
    by_arm: dict[str, list[ScoredCompletion]] = {}
    for answer in sorted(answers, key=lambda answer: answer.question):
        by_arm.setdefault(answer.arm, []).append(answer)
    measure = baseline.scorer.measure
    ours, theirs = by_arm[ADAPTER], by_arm[baseline.name]
    our_scores, their_scores = ([answer.scores[measure] for answer in answers] for answers in (ours, theirs))
    constant, floor = plan.best_constant(measure)
    checked = {name: _checked(by_arm[name], plan) for name in by_arm}
    doubt = scorer_doubt({name: checked[name] for name in (ADAPTER, baseline.name)}, measure)
    comparisons = 1 + (START in by_arm)
    compared = compare_scores(
        our_scores, their_scores, constant=floor, margin=margin, comparisons=comparisons, doubt=doubt
    )
    sample = _telling_question(our_scores, their_scores)
    missed = _missed_question(our_scores, their_scores)
    prompts = {prompt.name: prompt for prompt in plan.prompts} | dict.fromkeys((START, ADAPTER), plan.prompts[0])
    start = _compare_with_start(by_arm, measure, floor, margin)
    return EvaluationSummary(
        questions=compared.items,
        left_out=plan.left_out,
        measure=measure,
        arms={name: _summarize_arm(answers, plan, prompts[name], sample) for name, answers in by_arm.items()},
        rival=baseline.name,
        gain=compared.difference,
        verdict=compared.verdict,
        sentence=_sentence(compared, baseline, by_arm, missed) + (f" {start.sentence}" if start else ""),
        reason=compared.reason,
        confidence=compared.confidence,
        margin=margin,
        is_not_worse=compared.is_not_worse,
        items_needed=compared.items_needed,
        constant=compared.constant,
        constant_answer=constant,
        start=start,
        candidates=list(baseline.candidates),
        warnings=[*plan.warnings, *baseline.warnings, *check_answers(checked, measure)],
        token_moments=TokenMoments.of(_token_counts(ours), _token_counts(theirs)),
    )


def _compare_with_start(
    by_arm: ArmAnswers, measure: str, constant: Sequence[float], margin: float
) -> StartComparison | None:
    """Return what the training has changed, if it went on from an adapter."""
    if START not in by_arm:
        return None
    ours, theirs = ([answer.scores[measure] for answer in by_arm[name]] for name in (ADAPTER, START))
    compared = compare_scores(ours, theirs, constant=constant, margin=margin, comparisons=2)
    estimates = f"{measure} {compared.challenger:.2f} against {compared.reference:.2f}"
    sentence = verdict_sentence(compared, f"the {ADAPTER}", f"the {START}", details=estimates, items_name="questions")
    return StartComparison(gain=compared.difference, verdict=compared.verdict, sentence=sentence)


def _telling_question(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """Return the first question on which the two differ most."""
    differences = [abs(our - their) for our, their in zip(ours, theirs, strict=True)]
    return differences.index(max(differences))


def _missed_question(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """Return the first question that both answered worst."""
    sums = [our + their for our, their in zip(ours, theirs, strict=True)]
    return sums.index(min(sums))


def _sentence(compared: ScoreComparison, baseline: Baseline, by_arm: ArmAnswers, missed: int) -> str:
    tokens = {name: fmean(answer.input_tokens for answer in answers) for name, answers in by_arm.items()}
    estimates = f"{compared.challenger:.2f} against {compared.reference:.2f}"
    reference = f"the {baseline.name}"
    quoted = [(f"the {ADAPTER}", by_arm[ADAPTER][missed]), (reference, by_arm[baseline.name][missed])]
    return verdict_sentence(
        compared,
        f"the {ADAPTER}",
        reference,
        token_ratio=tokens[ADAPTER] / tokens[baseline.name] if tokens[baseline.name] else None,
        details=f"{baseline.scorer.measure} {estimates} on {compared.items} held-out questions",
        items_name="questions",
        samples=[
            QuotedAnswer(name, answer.answer, answer.expected)
            for name, answer in quoted
            if answer.scores[baseline.scorer.measure] < 1
        ],
    )


def _summarize_arm(answers: Sequence[ScoredCompletion], plan: EvaluationPlan, prompt: Prompt, sample: int) -> ArmScores:
    messages = prompt.add_to(plan.questions.items[sample].messages)
    left_out = max(0, len(messages) - _FIRST_MESSAGES - _LAST_MESSAGES)
    if left_out:
        messages = messages[:_FIRST_MESSAGES] + messages[-_LAST_MESSAGES:]
    messages = [message | {"content": _shortened(content_text(message.get("content")))} for message in messages]
    shown = answers[sample]
    cached = [answer.cached_tokens for answer in answers if answer.cached_tokens is not None]
    return ArmScores(
        scores=score_intervals([answer.scores for answer in answers]),
        input_tokens=fmean(answer.input_tokens for answer in answers),
        output_tokens=fmean(answer.output_tokens for answer in answers),
        seconds=fmean(answer.seconds for answer in answers),
        cached_tokens=fmean(cached) if len(cached) == len(answers) else None,
        sample=SampleAnswer(
            question=shown.question,
            messages=messages,
            left_out=left_out,
            answer=_shortened(shown.answer),
            expected=_shortened(shown.expected),
        ),
    )


def _shortened(text: str) -> str:
    left_out = len(text) - _MAX_CHARACTERS
    return f"{text[:_MAX_CHARACTERS]} [... {left_out} characters, see comparison.json]" if left_out > 0 else text


def _checked(answers: Sequence[ScoredCompletion], plan: EvaluationPlan) -> list[CheckedAnswer]:
    limit = plan.questions.max_answer_tokens
    return [
        CheckedAnswer(plan.lines[each.question], each.answer, each.expected, each.scores, _is_truncated(each, limit))
        for each in answers
    ]


def _is_truncated(answer: ScoredCompletion, max_tokens: int) -> bool:
    """Whether an answer was cut off: without a reason of its end, if it has as many tokens as it may have."""
    if answer.finish_reason is not None:
        return answer.finish_reason == "length"
    return answer.output_tokens >= max_tokens


def _token_counts(answers: Sequence[ScoredCompletion]) -> list[TokenCounts]:
    return [TokenCounts(answer.input_tokens, answer.cached_tokens, answer.output_tokens) for answer in answers]
