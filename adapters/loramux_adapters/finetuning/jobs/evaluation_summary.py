"""The result of comparing a job's adapter with the base: scores, verdict and a sentence, as stored and shown."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.verdict import Verdict, compare_scores, score_intervals
from loramux_adapters.evaluation.verdict_sentence import verdict_sentence

ADAPTER, BASE = "adapter", "base"


def _read_interval(value: Any) -> Any:
    return (value["low"], value["mean"], value["high"]) if isinstance(value, Mapping) else value


def _write_interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "mean": interval.estimate, "high": interval.high}


MeanInterval = Annotated[Interval, BeforeValidator(_read_interval), PlainSerializer(_write_interval)]
"""The interval of a mean, in JSON an object with `low`, `mean` and `high`."""


class ScoredCompletion(NamedTuple):
    """One answer of one arm to one question; `scores` by the names of the measures, `seconds` until its end."""

    arm: str
    question: int
    expected: str
    answer: str
    scores: Mapping[str, float]
    input_tokens: int
    output_tokens: int
    seconds: float


class ArmScores(BaseModel):
    """One arm: means over all questions, of its scores and of a request's tokens and seconds."""

    model_config = ConfigDict(frozen=True)

    scores: dict[str, MeanInterval]
    input_tokens: float
    output_tokens: float
    seconds: float


class EvaluationSummary(BaseModel):
    """The outcome: `rival` is the better baseline, an arm without the adapter; `gain` is the adapter's score minus its.

    `left_out` counts the validation examples that the training file has too: a gain on those would prove nothing.
    """

    model_config = ConfigDict(frozen=True)

    questions: int
    left_out: int
    measure: str
    arms: dict[str, ArmScores]
    rival: str
    gain: MeanInterval
    verdict: Verdict | Literal["no difference shown", "too few questions"]
    sentence: str


def summarize(answers: Sequence[ScoredCompletion], measure: str, left_out: int) -> EvaluationSummary:
    """Compare the adapter with the better baseline, question by question.

    Raises:
        ValueError: the arms did not answer the same number of questions.
    """
    answers_by_arm: dict[str, list[ScoredCompletion]] = {}
    for answer in sorted(answers, key=lambda answer: answer.question):
        answers_by_arm.setdefault(answer.arm, []).append(answer)
    arms = {name: _summarize_arm(answers) for name, answers in answers_by_arm.items()}
    baseline = max((name for name in arms if name != ADAPTER), key=lambda name: arms[name].scores[measure].estimate)
    ours, theirs = arms[ADAPTER], arms[baseline]
    scores = ([answer.scores[measure] for answer in answers_by_arm[name]] for name in (ADAPTER, baseline))
    compared = compare_scores(*scores)
    estimates = f"{ours.scores[measure].estimate:.2f} against {theirs.scores[measure].estimate:.2f}"
    return EvaluationSummary(
        questions=compared.items,
        left_out=left_out,
        measure=measure,
        arms=arms,
        rival=baseline,
        gain=compared.difference,
        verdict=compared.verdict,
        sentence=verdict_sentence(
            compared,
            "the adapter",
            f"the {baseline}",
            token_ratio=ours.input_tokens / theirs.input_tokens,
            details=f"{measure} {estimates} on {compared.items} held-out questions",
            items_name="questions",
        ),
    )


def _summarize_arm(answers: Sequence[ScoredCompletion]) -> ArmScores:
    count = len(answers)
    return ArmScores(
        scores=score_intervals([answer.scores for answer in answers]),
        input_tokens=sum(answer.input_tokens for answer in answers) / count,
        output_tokens=sum(answer.output_tokens for answer in answers) / count,
        seconds=sum(answer.seconds for answer in answers) / count,
    )
