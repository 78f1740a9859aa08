from collections.abc import Mapping

import pytest

from loramux_adapters.evaluation.prompts import Prompt
from loramux_adapters.finetuning.jobs.baseline import choose_baseline
from loramux_adapters.finetuning.jobs.evaluation_summary import ScoredCompletion
from tests.adapters.finetuning.jobs.test_summarize import plan

PROMPTS = [Prompt("base"), Prompt("base with instructions"), Prompt("base with 4 examples in its prompt")]


def answers(arm: str, scores: Mapping[str, list[float]], tokens: int = 10) -> list[ScoredCompletion]:
    rows = [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]
    return [ScoredCompletion(arm, i, "x", "y", row, tokens, 1, 0.1) for i, row in enumerate(rows)]


CHRF = (0.2, 0.3, 0.4, 0.9)


def tried(*means: float, adapter: float = 1.0, chrf: tuple[float, ...] = CHRF) -> list[ScoredCompletion]:
    """Ten answers of each arm: the first of them are exact, and all have the same chrF."""
    names, found = [*(prompt.name for prompt in PROMPTS), "adapter"], []
    for name, mean, similarity in zip(names, (*means, adapter), chrf, strict=True):
        right = round(10 * mean)
        found += answers(name, {"exact match": [1.0] * right + [0.0] * (10 - right), "chrF": [similarity] * 10})
    return found


@pytest.mark.parametrize(
    ("means", "name"),
    [((0.1, 0.5, 0.3), 1), ((0.6, 0.5, 0.3), 0), ((0.1, 0.5, 0.5), 1), ((0.0, 0.0, 0.0), 2)],
)
def test_the_prompt_with_the_highest_score_is_chosen_and_of_equals_the_cheapest(
    means: tuple[float, ...], name: int
) -> None:
    """T1: of three prompts with 0.00, the bare base was taken."""
    chosen = choose_baseline(tried(*means), plan(20, prompts=PROMPTS))
    assert chosen.name == PROMPTS[name].name
    assert [each.is_chosen for each in chosen.candidates] == [place == name for place in range(3)]
    assert [(each.score, each.items, each.input_tokens) for each in chosen.candidates] == [(m, 10, 10) for m in means]
    assert chosen.scorer.measure == "exact match"


def test_the_adapter_is_no_candidate() -> None:
    chosen = choose_baseline(tried(0.1, 0.2, 0.3, adapter=1.0), plan(20, prompts=PROMPTS))
    assert [each.name for each in chosen.candidates] == [prompt.name for prompt in PROMPTS]


def test_a_measure_that_is_0_for_everyone_gives_way_to_one_that_tells_arms_apart() -> None:
    chosen = choose_baseline(tried(0, 0, 0, adapter=0, chrf=(0.2, 0.6, 0.4, 0.9)), plan(20, prompts=PROMPTS))
    assert (chosen.scorer.measure, chosen.name) == ("chrF", PROMPTS[1].name)
    assert [warning.code for warning in chosen.warnings] == ["changed_measure"]


def test_a_measure_that_the_adapter_alone_meets_stays() -> None:
    chosen = choose_baseline(tried(0, 0, 0, adapter=0.1), plan(20, prompts=PROMPTS))
    assert (chosen.scorer.measure, chosen.warnings) == ("exact match", [])


def test_without_a_telling_measure_the_first_one_stays() -> None:
    chosen = choose_baseline(tried(0, 0, 0, adapter=0, chrf=(0.2,) * 4), plan(20, prompts=PROMPTS))
    assert (chosen.scorer.measure, chosen.name, chosen.warnings) == ("exact match", PROMPTS[2].name, [])


def test_without_selection_items_the_largest_prompt_is_taken() -> None:
    chosen = choose_baseline([], plan(20, prompts=PROMPTS))
    assert chosen.name == PROMPTS[2].name
    assert [(each.score, each.items, each.is_chosen) for each in chosen.candidates][-1] == (None, 0, True)
