"""Choice of the baseline, the base's best prompt, and of the measure that decides, before the verdict's questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer
from loramux_adapters.evaluation.selection import best_variant
from loramux_adapters.finetuning.jobs.evaluation_plan import EvaluationPlan
from loramux_adapters.finetuning.jobs.evaluation_summary import ADAPTER, Candidate, ScoredCompletion


@dataclass(frozen=True)
class Baseline:
    """The base's best prompt by its name, all that were tried, and a scorer with the measure that decides."""

    name: str
    candidates: Sequence[Candidate]
    scorer: AutomaticScorer
    warnings: Sequence[EvaluationWarning] = ()


def choose_baseline(answers: Sequence[ScoredCompletion], plan: EvaluationPlan) -> Baseline:
    """Choose by the answers of all prompts to `plan.selection`; without any, the largest prompt is taken."""
    names = [prompt.name for prompt in plan.prompts]
    if not answers:
        return Baseline(names[-1], [Candidate(name=name, is_chosen=name == names[-1]) for name in names], plan.scorer)
    by_arm: dict[str, list[ScoredCompletion]] = {}
    for answer in answers:
        by_arm.setdefault(answer.arm, []).append(answer)
    scorer, warnings = _choose_measure(by_arm, plan.scorer)
    chosen = best_variant({name: fmean(answer.scores[scorer.measure] for answer in by_arm[name]) for name in names})
    candidates = [_candidate(name, by_arm[name], scorer.measure, is_chosen=name == chosen) for name in names]
    return Baseline(chosen, candidates, scorer, warnings)


def _choose_measure(
    by_arm: Mapping[str, Sequence[ScoredCompletion]], scorer: AutomaticScorer
) -> tuple[AutomaticScorer, list[EvaluationWarning]]:
    """Keep the measure unless it is the same for every answer: then the first that tells two arms apart decides."""
    values = {answer.scores[scorer.measure] for answers in by_arm.values() for answer in answers}
    if len(values) > 1:
        return scorer, []
    means = {
        name: {round(fmean(answer.scores[name] for answer in answers), 9) for answers in by_arm.values()}
        for name in scorer.names
    }
    telling = [name for name in scorer.names if len(means[name]) > 1]
    if not telling:
        return scorer, []
    message = (
        f"{telling[0]} decides, because {scorer.measure} was {values.pop():.2f} for every answer to the examples by "
        f"which the baseline was chosen, the {ADAPTER}'s too"
    )
    return scorer.decide_by(telling[0]), [EvaluationWarning(code="changed_measure", message=message)]


def _candidate(name: str, answers: Sequence[ScoredCompletion], measure: str, *, is_chosen: bool) -> Candidate:
    return Candidate(
        name=name,
        score=fmean(answer.scores[measure] for answer in answers),
        items=len(answers),
        input_tokens=fmean(answer.input_tokens for answer in answers),
        is_chosen=is_chosen,
    )
