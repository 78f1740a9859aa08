"""Each arm of a comparison relative to the reference, with intervals that are right for all of them at once."""

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.constant_answer import constant_scores, most_frequent_answer
from loramux_adapters.evaluation.scorers import ScoringError
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
    floor = _constant_scores(comparison, arms, score)
    others = [name for name in arms if name != reference]
    return {
        name: ArmComparison(
            **compare_scores(
                scores[name],
                scores[reference],
                constant=floor,
                margin=comparison.margin,
                comparisons=len(others),
            )._asdict()
        )
        for name in others
    }


def _constant_scores(comparison: Comparison, arms: ArmAnswers, score: str) -> list[float]:
    """The scores of the most frequent expected answer to every item; 0 where it is not known or asks a judge."""
    expected = [comparison.items[answer.item].expected for answer in next(iter(arms.values()))]
    constant = None if isinstance(comparison.scorer, JudgeScorer) else most_frequent_answer(expected)
    try:
        return constant_scores(lambda answer, right: comparison.scorer.score(answer, right)[score], constant, expected)
    except (ScoringError, LookupError):  # a user's function may refuse what no model answered
        return [0.0] * len(expected)
