"""What a trial found, and what that means in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.measures import Mean

ADAPTER, BASE = "adapter", "base"
Verdict = Literal["better", "no difference shown", "worse", "too few questions"]
FEWEST_QUESTIONS = 10
"""With fewer, an interval by drawing anew is too narrow to rest a verdict on."""


class Row(NamedTuple):
    """One answer of one arm to one question; `scores` by the names of the measures, `seconds` until its end."""

    arm: str
    question: int
    expected: str
    answer: str
    scores: Mapping[str, float]
    input_tokens: int
    output_tokens: int
    seconds: float


class Arm(BaseModel):
    """One way of answering: means over all questions, of scores and of a request's tokens and seconds."""

    model_config = ConfigDict(frozen=True)

    scores: dict[str, Mean]
    input_tokens: float
    output_tokens: float
    seconds: float


class Trial(BaseModel):
    """What came of a trial. `rival` is the better of the arms without the adapter, `gain` the adapter's score over it.

    `left_out` are the validation examples that the training file has too: a gain on those would prove nothing.
    """

    model_config = ConfigDict(frozen=True)

    questions: int
    left_out: int
    measure: str
    arms: dict[str, Arm]
    rival: str
    gain: Mean
    verdict: Verdict
    sentence: str


def summed_up(rows: Sequence[Row], measure: str, left_out: int) -> Trial:
    """Compare the arms, question by question; every arm must have answered each."""
    arms: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.question):
        arms.setdefault(row.arm, []).append(row)
    shown = {name: _arm(answers) for name, answers in arms.items()}
    rival = max((name for name in shown if name != ADAPTER), key=lambda name: shown[name].scores[measure].mean)
    pairs = zip(arms[ADAPTER], arms[rival], strict=True)
    gain = Mean.of([ours.scores[measure] - theirs.scores[measure] for ours, theirs in pairs])
    verdict = _verdict(gain, len(arms[ADAPTER]))
    return Trial(
        questions=len(arms[ADAPTER]),
        left_out=left_out,
        measure=measure,
        arms=shown,
        rival=rival,
        gain=gain,
        verdict=verdict,
        sentence=_sentence(verdict, measure, gain, rival, shown, len(arms[ADAPTER])),
    )


def _verdict(gain: Mean, questions: int) -> Verdict:
    if questions < FEWEST_QUESTIONS:
        return "too few questions"
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "no difference shown"


def _arm(answers: Sequence[Row]) -> Arm:
    count = len(answers)
    return Arm(
        scores={name: Mean.of([row.scores[name] for row in answers]) for name in answers[0].scores},
        input_tokens=sum(row.input_tokens for row in answers) / count,
        output_tokens=sum(row.output_tokens for row in answers) / count,
        seconds=sum(row.seconds for row in answers) / count,
    )


def _sentence(verdict: Verdict, measure: str, gain: Mean, rival: str, arms: Mapping[str, Arm], questions: int) -> str:
    ours, theirs = arms[ADAPTER], arms[rival]
    scores = f"{measure} {ours.scores[measure].mean:.2f} against {theirs.scores[measure].mean:.2f}"
    found = f"{scores} on {questions} held-out questions, a difference of {gain}, {_tokens(ours, theirs)}"
    match verdict:
        case "better":
            return f"The adapter is better than the {rival}: {found}."
        case "no difference shown":
            return f"Keep prompting, unless tokens or time decide: no gain over the {rival} is shown: {found}."
        case "too few questions":
            return f"The questions are too few for a verdict between the adapter and the {rival}: {found}."
        case "worse":
            return f"Keep prompting: the {rival} does better than the adapter: {found}."


def _tokens(ours: Arm, theirs: Arm) -> str:
    ratio = theirs.input_tokens / ours.input_tokens
    if ratio >= 1.05:
        return f"at 1/{ratio:.0f} of its prompt tokens" if ratio >= 1.5 else f"at {1 / ratio:.0%} of its prompt tokens"
    return "at the same prompt tokens"
