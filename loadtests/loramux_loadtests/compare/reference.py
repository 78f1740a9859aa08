"""The reference of a comparison: as the plan names it, or the best of the other arms on items kept apart for that."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.selection import best_variant, split_for_selection
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.plan import Comparison


class ReferenceChoice(BaseModel):
    """How the reference was chosen: by mean scores on items that count for nothing else."""

    model_config = ConfigDict(frozen=True)

    items: list[int]
    scores: dict[str, float]
    """Mean of the score that decides, by arm."""


def choose_reference(
    comparison: Comparison, arms: Mapping[str, Sequence[ScoredAnswer]], score: str
) -> tuple[str, ReferenceChoice | None]:
    """Return the arm to compare the challenger with; `arms` are answers to the same items in the same order.

    A reference that nobody named is the best of the arms on the challenger's server, which share its base. Of arms
    that score the same, it is the one with the fewest prompt tokens; if nothing scored above 0, or the items are too
    few for a choice, the one with the most.
    """
    if comparison.reference is not None:
        return comparison.reference, None
    urls = {arm.name: arm.url for arm in comparison.arms}
    others = [name for name in arms if name != comparison.challenger]
    candidates = [name for name in others if urls[name] == urls[comparison.challenger]] or others
    candidates.sort(key=lambda name: sum(answer.input_tokens for answer in arms[name]))
    places = split_for_selection(len(arms[comparison.challenger])).selection if len(candidates) > 1 else []
    if not places:
        return candidates[-1], None
    means = {name: fmean(arms[name][place].scores[score] for place in places) for name in candidates}
    chosen = best_variant(means)
    return chosen, ReferenceChoice(items=sorted(arms[chosen][place].item for place in places), scores=means)
