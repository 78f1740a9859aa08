"""Checks of an evaluation's answers and scores: what makes a verdict doubtful is named."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.evaluation.calls import parse_calls
from loramux_adapters.evaluation.duplicates import normalize
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode
from loramux_adapters.evaluation.json_objects import parse_json_object

_MIN_SHARE_RIGHT = 0.5
"""Arms with fewer right answers are too often wrong to vote on whether an expected answer is."""
_MIN_VOTES = 2
_MIN_AGREEMENT = 0.5
"""Share of the items that all voters get wrong on which they must agree."""
_SIMILARITY = "chrF"
"""A measure for texts that are never expected to be equal."""
_MIN_SHARE = 0.05
"""Share of truncated or empty answers from which an arm gets a warning."""


class CheckedAnswer(NamedTuple):
    """The answer of an arm to an item, by its number, with its scores by their names."""

    item: int
    answer: str
    expected: str
    scores: Mapping[str, float]
    is_truncated: bool = False


ArmAnswers = Mapping[str, Sequence[CheckedAnswer]]
"""The answers of each arm to the same items in the same order."""


def check_answers(arms: ArmAnswers, measure: str) -> list[EvaluationWarning]:
    """Return warnings about the answers of all arms; `measure` is the score that decides, 0..1."""
    warnings = [_same_scores(arms, measure), *_never_right(arms, measure), _wrong_labels(arms, measure)]
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


def _never_right(arms: ArmAnswers, measure: str) -> list[EvaluationWarning]:
    """Warn of stricter scores that are 0 for every answer although the measure isn't, and of members always wrong."""
    answers = [answer for answers in arms.values() for answer in answers]
    if measure == _SIMILARITY or not any(answer.scores[measure] for answer in answers):
        return []
    messages = [
        f"{name} is 0.00 for every answer of every arm, although {measure} is not"
        for name in answers[0].scores
        if not any(answer.scores[name] for answer in answers)
    ]
    if members := _members_never_right(answers):
        quoted = " and ".join(_shortened(member) for member in members)
        messages.append(f"no arm ever has {quoted} as expected: can it follow from the question?")
    return [EvaluationWarning(code="never_right", message=message) for message in messages]


def _members_never_right(answers: Sequence[CheckedAnswer]) -> list[str]:
    """Return the members of expected JSON objects that are wrong in every answer."""
    right: dict[str, bool] = {}
    for answer in answers:
        wanted, found = parse_json_object(answer.expected), parse_json_object(answer.answer) or {}
        if parse_calls(answer.expected) is not None:
            continue
        for key, value in (wanted or {}).items():
            right[key] = right.get(key, False) or (key in found and found[key] == value)
    return [key for key, is_right in right.items() if not is_right]


def scorer_doubt(arms: ArmAnswers, measure: str) -> str:
    """Return why the scorer may be wrong if it gives no arm credit, as a sentence part; "" if nothing says so.

    That is an arm of which most answers contain the expected text and get no full credit.
    """
    found = {
        name: sum(_contains_expected(answer) and answer.scores[measure] < 1 for answer in answers)
        for name, answers in arms.items()
    }
    name = max(found, key=lambda name: found[name])
    if 2 * found[name] <= len(arms[name]):
        return ""
    where = f"{found[name]} of {len(arms[name])} answers of the arm {_shortened(name)}"
    return f"the expected text stands inside {where} without full credit"


def _contains_expected(answer: CheckedAnswer) -> bool:
    expected = normalize(answer.expected)
    return bool(expected) and expected in normalize(answer.answer)


def _wrong_labels(arms: ArmAnswers, measure: str) -> EvaluationWarning | None:
    """Warn of items for which all arms that are mostly right agree on one answer that is not the expected one.

    Arms that err agree by chance, too: only if they agree on most items that all of them get wrong, they are believed.
    """
    voters = {name: answers for name, answers in arms.items() if _share_right(answers, measure) >= _MIN_SHARE_RIGHT}
    if len(voters) < _MIN_VOTES:
        return None
    votes = list(zip(*voters.values(), strict=True))
    missed = [group for group in votes if all(vote.scores[measure] < 1 for vote in group)]
    doubtful = [group[0] for group in missed if _agree_against(group)]
    if len(doubtful) <= _MIN_AGREEMENT * len(missed):
        return None
    items = {answer.item for answer in doubtful}
    rest = {name: [answer for answer in answers if answer.item not in items] for name, answers in voters.items()}
    without = ", ".join(f"{name} {_mean(answers, measure):.2f}" for name, answers in rest.items() if answers)
    message = (
        f"{len(doubtful)} expected answer(s) may be wrong: {' and '.join(voters)} agree on another one, for example "
        f"{_shortened(doubtful[0].answer)} where {_shortened(doubtful[0].expected)} is expected. They are "
        f"{len(doubtful)} of the {len(missed)} items that all of these miss; without them {measure} is: {without}. "
        "Arms of one base may also err together: read these items"
    )
    return EvaluationWarning(code="wrong_label", message=message, items=tuple(sorted(items)))


def _share_right(answers: Sequence[CheckedAnswer], measure: str) -> float:
    return sum(answer.scores[measure] >= 1 for answer in answers) / len(answers)


def _mean(answers: Sequence[CheckedAnswer], measure: str) -> float:
    return sum(answer.scores[measure] for answer in answers) / len(answers)


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
