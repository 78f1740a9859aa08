from collections.abc import Sequence

import pytest

from loramux_adapters.evaluation.verdict import Row, Trial, summed_up

SHOTS = "base with 9 examples in its prompt"


def arm(name: str, scores: Sequence[float], tokens: int) -> list[Row]:
    return [Row(name, i, "yes", "no", {"exact match": score}, tokens, 2, 0.5) for i, score in enumerate(scores)]


def trial(adapter: Sequence[float], base: Sequence[float], shots: Sequence[float], shot_tokens: int = 500) -> Trial:
    rows = arm("adapter", adapter, 20) + arm("base", base, 20) + arm(SHOTS, shots, shot_tokens)
    return summed_up(rows, "exact match", left_out=3)


def test_an_adapter_is_better_only_if_the_whole_interval_says_so() -> None:
    found = trial([1] * 18 + [0] * 2, [0] * 20, [1] * 5 + [0] * 15)
    assert (found.verdict, found.rival, found.questions, found.left_out) == ("better", SHOTS, 20, 3)
    assert found.gain.mean == pytest.approx(0.65)
    assert found.gain.low > 0
    assert found.sentence == (
        f"The adapter is better than the {SHOTS}: exact match 0.90 against 0.25 on 20 held-out questions, a difference "
        f"of {found.gain}, at 1/25 of its prompt tokens."
    )


def test_where_the_interval_holds_0_no_gain_is_claimed() -> None:
    found = trial([1] * 11 + [0] * 9, [0] * 20, [0] * 10 + [1] * 10)
    assert found.verdict == "no difference shown"
    assert found.sentence.startswith(f"Keep prompting, unless tokens or time decide: no gain over the {SHOTS} is shown")


def test_a_few_questions_are_no_verdict_however_clear() -> None:
    found = trial([1] * 9, [0] * 9, [0] * 9)
    assert found.verdict == "too few questions"
    assert found.sentence.startswith("The questions are too few for a verdict between the adapter and the base")


def test_a_worse_adapter_is_called_so() -> None:
    found = trial([0] * 20, [1] * 20, [0] * 20)
    assert (found.verdict, found.rival) == ("worse", "base")
    assert found.sentence.startswith("Keep prompting: the base does better than the adapter")
    assert "at the same prompt tokens" in found.sentence


def test_the_rival_is_the_better_of_the_arms_without_the_adapter() -> None:
    assert trial([1] * 20, [1] * 20, [0] * 20).rival == "base"
    assert trial([1] * 20, [0] * 20, [1] * 20).rival == SHOTS


def test_pairs_are_compared_question_by_question_in_whatever_order_they_came() -> None:
    rows = arm("adapter", [1, 0] * 10, 20) + arm("base", [1, 0] * 10, 20)
    found = summed_up(rows[::-1], "exact match", 0)
    assert (found.gain.low, found.gain.high) == (0, 0)  # unpaired, the interval would be wide
    assert found.arms["base"].scores["exact match"].high > 0.6


def test_arms_that_answered_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        summed_up(arm("adapter", [1] * 4, 20) + arm("base", [1] * 3, 20), "exact match", 0)


def test_a_trial_survives_the_database() -> None:
    found = trial([1, 0], [0, 0], [1, 1])
    assert Trial.model_validate_json(found.model_dump_json()) == found
