from collections.abc import Sequence

import pytest

from loramux_adapters.finetuning.jobs.evaluation_summary import EvaluationSummary, ScoredCompletion, summarize

SHOTS = "base with 9 examples in its prompt"


def arm(name: str, scores: Sequence[float], tokens: int) -> list[ScoredCompletion]:
    return [
        ScoredCompletion(name, number, "yes", "no", {"exact match": score}, tokens, 2, 0.5)
        for number, score in enumerate(scores)
    ]


def summary(adapter: Sequence[float], base: Sequence[float], shots: Sequence[float]) -> EvaluationSummary:
    answers = arm("adapter", adapter, 20) + arm("base", base, 20) + arm(SHOTS, shots, 500)
    return summarize(answers, "exact match", left_out=3)


def test_an_adapter_is_better_only_if_the_whole_interval_says_so() -> None:
    found = summary([1] * 18 + [0] * 2, [0] * 20, [1] * 5 + [0] * 15)
    assert (found.verdict, found.rival, found.questions, found.left_out) == ("better", SHOTS, 20, 3)
    assert found.gain.estimate == pytest.approx(0.65)
    assert found.gain.low > 0
    assert found.sentence == (
        f"The adapter is better than the {SHOTS} by 0.65 [{found.gain.low:+.2f}, {found.gain.high:+.2f}] at 1/25 of "
        "the prompt tokens (exact match 0.90 against 0.25 on 20 held-out questions)."
    )


def test_no_gain_is_claimed_where_the_interval_contains_0() -> None:
    found = summary([1] * 11 + [0] * 9, [0] * 20, [0] * 10 + [1] * 10)
    assert found.verdict == "no difference shown"
    assert found.sentence.startswith(f"Keep the {SHOTS}, unless cost decides: for the adapter no difference in quality")


def test_a_few_questions_give_no_verdict_however_clear() -> None:
    found = summary([1] * 9, [0] * 9, [0] * 9)
    assert found.verdict == "too few questions"
    assert found.sentence.startswith("9 questions are too few for a verdict: the adapter relative to the base +1.00")


def test_a_worse_adapter_is_called_so() -> None:
    found = summary([0] * 20, [1] * 20, [0] * 20)
    assert (found.verdict, found.rival) == ("worse", "base")
    assert found.sentence.startswith("Keep the base: the adapter is worse by 1.00")
    assert "at the same prompt tokens" in found.sentence


def test_the_adapter_is_compared_with_the_better_baseline() -> None:
    assert summary([1] * 20, [1] * 20, [0] * 20).rival == "base"
    assert summary([1] * 20, [0] * 20, [1] * 20).rival == SHOTS


def test_answers_are_paired_by_question_in_whatever_order_they_came() -> None:
    answers = arm("adapter", [1, 0] * 10, 20) + arm("base", [1, 0] * 10, 20)
    found = summarize(answers[::-1], "exact match", 0)
    assert (found.gain.low, found.gain.high) == (0, 0)  # unpaired, the interval would be wide
    assert found.arms["base"].scores["exact match"].high > 0.6


def test_arms_that_answered_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarize(arm("adapter", [1] * 4, 20) + arm("base", [1] * 3, 20), "exact match", 0)


def test_a_perfect_score_still_has_an_interval() -> None:
    low, estimate, high = summary([1] * 20, [0] * 20, [0] * 20).arms["adapter"].scores["exact match"]
    assert low == pytest.approx(0.839, abs=0.001)  # Wilson's
    assert (estimate, high) == (1, 1)


def test_a_summary_survives_the_database_with_the_field_names_that_clients_read() -> None:
    found = summary([1, 0], [0, 0], [1, 1])
    stored = found.model_dump(mode="json")
    assert stored.keys() == {
        "questions", "left_out", "measure", "arms", "rival", "gain", "verdict", "sentence",
    }  # fmt: skip
    assert stored["gain"].keys() == stored["arms"]["base"]["scores"]["exact match"].keys() == {"low", "mean", "high"}
    assert EvaluationSummary.model_validate(stored) == found
