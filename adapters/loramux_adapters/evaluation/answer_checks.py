"""Checks of an evaluation's answers and scores: what makes a verdict doubtful is named."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.duplicates import normalize
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode

_MIN_MEAN_SCORE = 0.5
"""Arms below this are too often wrong to vote on whether an expected answer is."""
_MIN_VOTES = 2
_MIN_AGREEMENT = 0.5
"""Share of the items that all voters get wrong on which they must agree."""
_MIN_SHARE = 0.05
"""Share of truncated or empty answers from which an arm gets a warning."""


class CheckedAnswer(NamedTuple):
    """The answer of an arm to an item, by its index, with its scores by their names."""

    item: int
    answer: str
    expected: str
    scores: Mapping[str, float]
    is_truncated: bool = False


ArmAnswers = Mapping[str, Sequence[CheckedAnswer]]
"""The answers of each arm to the same items in the same order."""


def check_answers(arms: ArmAnswers, measure: str) -> list[EvaluationWarning]:
    """Return warnings about the answers of all arms; `measure` is the score that decides, 0..1."""
    warnings = [_same_scores(arms, measure), _wrong_labels(arms, measure)]
    for name, answers in arms.items():
        empty = [answer.item for answer in answers if not answer.answer.strip()]
        truncated = [answer.item for answer in answers if answer.is_truncated]
        warnings.append(_share_warning("empty_answers", f"{name}: %s answers are empty", empty, len(answers)))
        message = f"{name}: %s answers were cut off at the maximum number of tokens"
        warnings.append(_share_warning("truncated_answers", message, truncated, len(answers)))
    return [warning for warning in warnings if warning]


def _same_scores(arms: ArmAnswers, measure: str) -> EvaluationWarning | None:
    """Warn of a measure that gives every answer of every arm the same score, and name those that don't."""
    answers = [answer for answers in arms.values() for answer in answers]
    values = {name: {answer.scores[name] for answer in answers} for name in answers[0].scores}
    if len(values[measure]) > 1:
        return None
    others = [name for name in values if len(values[name]) > 1]
    hint = f"; {' and '.join(others)} tell the answers apart" if others else ""
    value = values[measure].pop()
    doubt = "are the items too easy, or is the scorer wrong?" if value == 1 else "is the scorer right?"
    message = f"{measure} is {value:.2f} for every answer of every arm: {doubt}{hint}"
    return EvaluationWarning(code="same_scores", message=message)


def _wrong_labels(arms: ArmAnswers, measure: str) -> EvaluationWarning | None:
    """Warn of items for which all arms that are mostly right agree on one answer that is not the expected one.

    Arms that err agree by chance, too: only if they agree on most items that all of them get wrong, they are believed.
    """
    voters = [
        answers
        for answers in arms.values()
        if sum(answer.scores[measure] for answer in answers) >= _MIN_MEAN_SCORE * len(answers)
    ]
    if len(voters) < _MIN_VOTES:
        return None
    missed = [votes for votes in zip(*voters, strict=True) if all(vote.scores[measure] < 1 for vote in votes)]
    doubtful = [votes[0] for votes in missed if _agree_against(votes)]
    if len(doubtful) <= _MIN_AGREEMENT * len(missed):
        return None
    message = (
        f"{len(doubtful)} expected answer(s) may be wrong: all arms that are mostly right agree on another one, "
        f"for example {_shortened(doubtful[0].answer)} where {_shortened(doubtful[0].expected)} is expected"
    )
    return EvaluationWarning(code="wrong_label", message=message, items=tuple(answer.item for answer in doubtful))


def _agree_against(votes: Sequence[CheckedAnswer]) -> bool:
    given = {normalize(vote.answer) for vote in votes}
    return len(given) == 1 and given.isdisjoint({"", normalize(votes[0].expected)})


def _share_warning(code: WarningCode, message: str, items: Sequence[int], count: int) -> EvaluationWarning | None:
    if len(items) <= _MIN_SHARE * count:
        return None
    return EvaluationWarning(code=code, message=message % f"{len(items)} of {count}", items=tuple(items))


def _shortened(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return f"“{line if len(line) <= length else line[: length - 1] + '…'}”"
