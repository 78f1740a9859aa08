"""Each arm of a comparison relative to the reference, with intervals that are right for all of them at once."""

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.answer_checks import CheckedAnswer, scorer_doubt
from loramux_adapters.evaluation.constant_answer import best_constant, constant_scores, most_frequent_answer
from loramux_adapters.evaluation.scorers import ScoringError
from loramux_adapters.evaluation.scorers.function import FunctionScorer
from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.verdict import ScoreComparison, Verdict, compare_scores
from loramux_loadtests.compare.arms import ArmAnswers
from loramux_loadtests.compare.judge import JudgeScorer
from loramux_loadtests.compare.plan import Comparison


class ArmComparison(BaseModel):
    """The fields of a ScoreComparison, of one arm relative to the reference."""

    model_config = ConfigDict(frozen=True)

    items: int
    challenger: float
    reference: float
    constant: float
    difference: Interval
    verdict: Verdict
    reason: str
    is_not_worse: bool
    items_needed: int | None
    confidence: float
    margin: float
    beats_constant: bool = True

    def compared(self) -> ScoreComparison:
        """Return the same as a ScoreComparison."""
        return ScoreComparison(**dict(self))


def compare_arms(comparison: Comparison, arms: ArmAnswers, reference: str, score: str) -> dict[str, ArmComparison]:
    """Compare the scores of every other arm with those of the reference, item by item."""
    scores = {name: [answer.scores[score] for answer in answers] for name, answers in arms.items()}
    floor, checked = _constant_scores(comparison, arms, score), checked_answers(comparison, arms)
    others = [name for name in arms if name != reference]
    return {
        name: ArmComparison(
            **compare_scores(
                scores[name],
                scores[reference],
                constant=floor,
                margin=comparison.margin,
                comparisons=len(others),
                doubt=scorer_doubt({arm: checked[arm] for arm in (name, reference)}, score),
            )._asdict()
        )
        for name in others
    }


def checked_answers(comparison: Comparison, arms: ArmAnswers) -> dict[str, list[CheckedAnswer]]:
    """The answers of each arm as the checks of evaluations take them; items are numbers within the data."""
    return {
        name: [
            CheckedAnswer(
                item=answer.item,
                answer=answer.text,
                expected=comparison.items[answer.item].expected,
                scores=answer.scores,
                is_truncated=answer.finish_reason == "length",
            )
            for answer in answers
        ]
        for name, answers in arms.items()
    }


def _constant_scores(comparison: Comparison, arms: ArmAnswers, score: str) -> list[float]:
    """The scores of the best single answer to every item; 0 where it is not known, or only a judge could say."""
    scorer = comparison.scorer
    expected = [comparison.items[answer.item].expected for answer in next(iter(arms.values()))]

    def of_answer(answer: str, right: str) -> float:
        return scorer.score(answer, right)[score]

    try:
        if isinstance(scorer, JudgeScorer):
            return [0.0] * len(expected)
        if isinstance(scorer, FunctionScorer):  # it may be slow
            return constant_scores(of_answer, most_frequent_answer(expected), expected)
        return best_constant(of_answer, expected)[1]
    except (ScoringError, LookupError):  # a user's function may refuse what no model answered
        return [0.0] * len(expected)
