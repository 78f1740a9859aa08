from collections.abc import Sequence
from typing import Any

import pytest

from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.prompts import Prompt
from loramux_adapters.evaluation.questions import Questions
from loramux_adapters.evaluation.scorers.automatic import choose_scorer
from loramux_adapters.finetuning.jobs.baseline import Baseline
from loramux_adapters.finetuning.jobs.evaluation_plan import EvaluationPlan
from loramux_adapters.finetuning.jobs.evaluation_summary import EvaluationSummary, ScoredCompletion
from loramux_adapters.finetuning.jobs.summarize import summarize

SHOTS = "base with 9 examples in its prompt"
EXAMPLE = [{"role": "user", "content": "example"}, {"role": "assistant", "content": "yes"}]


def plan(count: int, **changes: Any) -> EvaluationPlan:
    items = [Item([{"role": "user", "content": f"question {i}"}], f"answer {i}") for i in range(count)]
    values: dict[str, Any] = {
        "questions": Questions(items, 20, 10),
        "selection": Questions([], 0, 0),
        "prompts": [Prompt("base"), Prompt(SHOTS, "Answer.", [EXAMPLE] * 9)],
        "scorer": choose_scorer([item.expected for item in items]),
        "left_out": 3,
        "warnings": [],
        "lines": range(1, count + 1),
    }
    return EvaluationPlan(**values | changes)


def arm(name: str, scores: Sequence[float], tokens: int, **changes: Any) -> list[ScoredCompletion]:
    return [
        ScoredCompletion(
            name, i, f"answer {i}", f"answer {i}" if score == 1 else "no", {"exact match": score, "chrF": score},
            tokens, 2, 0.5, **changes,
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip


def summarized(answers: list[ScoredCompletion], rival: str = SHOTS, **changes: Any) -> EvaluationSummary:
    count = len({answer.question for answer in answers})
    planned = plan(count, **changes)
    return summarize(answers, planned, Baseline(rival, [], planned.scorer), 0.05)


def summary(
    adapter: Sequence[float], base: Sequence[float], shots: Sequence[float], rival: str = SHOTS, **changes: Any
) -> EvaluationSummary:
    answers = arm("adapter", adapter, 20) + arm("base", base, 20) + arm(SHOTS, shots, 500)
    return summarized(answers, rival, **changes)


def test_an_adapter_is_better_only_if_the_whole_interval_says_so() -> None:
    found = summary([1] * 18 + [0] * 2, [0] * 20, [1] * 5 + [0] * 15)
    assert (found.verdict, found.rival, found.questions, found.left_out) == ("better", SHOTS, 20, 3)
    assert found.gain.estimate == pytest.approx(0.65)
    assert found.gain.low > 0
    assert found.sentence == (
        f"The adapter is better than the {SHOTS} by 0.65 [{found.gain.low:.2f}, {found.gain.high:.2f}] at 1/25 of "
        "the prompt tokens (exact match 0.90 against 0.25 on 20 held-out questions)."
    )
    assert found.reason == "the whole interval of the difference is above 0"


def test_no_gain_is_claimed_where_the_interval_contains_0() -> None:
    found = summary([1] * 11 + [0] * 9, [0] * 20, [0] * 10 + [1] * 10)
    assert found.verdict == "not enough items"
    assert found.sentence.startswith(f"20 questions do not decide between the adapter and the {SHOTS}: no diff")
    assert found.items_needed
    assert not found.is_not_worse


def test_as_good_is_said_only_within_the_margin() -> None:
    found = summary([1] * 150 + [0] * 50, [0] * 200, [1] * 150 + [0] * 50)
    assert (found.verdict, found.margin, found.is_not_worse) == ("as good", 0.05, True)
    assert found.sentence.startswith(f"The adapter is as good as the {SHOTS} within 0.05, +0.00 [-0.")


def test_a_few_questions_give_no_verdict_however_clear() -> None:
    found = summary([1] * 9, [0] * 9, [0] * 9)
    assert found.verdict == "not enough items"
    assert found.sentence.startswith("9 questions are too few for a verdict: the adapter relative to the base with 9")


def test_a_worse_adapter_is_called_so() -> None:
    found = summary([0] * 20, [1] * 20, [0] * 20, rival="base")
    assert (found.verdict, found.rival) == ("worse", "base")
    assert found.sentence.startswith("Keep the base: the adapter is worse by 1.00")
    assert "at the same prompt tokens" in found.sentence


def test_where_neither_works_the_scorer_is_asked_for_and_answers_are_shown() -> None:
    """T1, T3: with 0 of 30 for every arm, the job said "Keep prompting, no gain"."""
    found = summary([0] * 30, [0] * 30, [0] * 30)
    assert found.verdict == "neither works"
    assert found.sentence == (
        f"Neither the adapter nor the {SHOTS} works: on 30 questions, 0.00 and 0.00 are not above 0 by more than 0.05 "
        "(exact match 0.00 against 0.00 on 30 held-out questions). Is the scorer right, and do the answers follow from "
        f"the questions? For example, the adapter answered “no” where “answer 0” was expected, and the "
        f"{SHOTS} answered “no” where “answer 0” was expected."
    )
    assert found.gain.low < 0 < found.gain.high
    assert [warning.code for warning in found.warnings] == ["same_scores"]


def test_the_best_constant_answer_must_be_beaten() -> None:
    items = [Item([{"role": "user", "content": f"question {i}"}], f"answer {min(i, 25)}") for i in range(30)]
    found = summary([1] * 5 + [0] * 25, [0] * 30, [1] * 4 + [0] * 26, questions=Questions(items, 20, 10))
    assert found.constant == pytest.approx(5 / 30)
    assert found.constant_answer == "answer 25"
    assert found.verdict == "neither works"
    assert "0.17 and 0.13 are not above the 0.17 of the best single answer to all by more than 0.05" in found.sentence
    assert "the adapter answered “no” where “answer 5” was expected" in found.sentence
    assert found.verdict == "neither works"


def test_answers_are_paired_by_question_in_whatever_order_they_came() -> None:
    answers = arm("adapter", [1, 0] * 50, 20) + arm("base", [1, 0] * 50, 20)
    found = summarized(answers[::-1], rival="base")
    assert found.gain.high < 0.05  # unpaired, the interval would be wide
    assert found.arms["base"].scores["exact match"].high > 0.59


def test_arms_that_answered_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="paired"):
        summarized(arm("adapter", [1] * 4, 20) + arm("base", [1] * 3, 20), rival="base")


def test_the_messages_that_each_arm_sent_for_a_telling_question_are_shown() -> None:
    found = summary([1] * 19 + [0], [0] * 20, [1] * 20)
    sample = found.arms["adapter"].sample
    assert sample is not None
    assert (sample.question, sample.answer, sample.expected) == (19, "no", "answer 19")
    assert sample.messages == [{"role": "user", "content": "question 19"}]
    prompted = found.arms[SHOTS].sample
    assert prompted is not None
    assert prompted.messages[0] == {"role": "system", "content": "Answer."}
    assert prompted.messages[-1] == {"role": "user", "content": "question 19"}
    assert (len(prompted.messages), prompted.left_out) == (10, 10)


def test_a_sample_keeps_only_the_beginning_of_long_texts() -> None:
    answers = arm("adapter", [1] * 20, 20) + arm("base", [0] * 20, 20)
    long = [answer._replace(answer="x" * 5000) for answer in answers]
    sample = summarized(long, rival="base").arms["adapter"].sample
    assert sample is not None
    assert sample.answer == "x" * 2000 + " [... 3000 characters, see comparison.json]"


def test_answers_that_were_cut_off_are_counted_by_their_reason_or_their_length() -> None:
    mixed = [1] * 19 + [0]
    by_reason = arm("adapter", mixed, 20, finish_reason="length") + arm("base", mixed[::-1], 20, finish_reason="stop")
    (warning,) = summarized(by_reason, rival="base").warnings
    assert warning.message == "adapter: 20 of 20 answers were cut off at the maximum number of tokens"
    long = [answer._replace(output_tokens=10) for answer in arm("adapter", mixed, 20)]
    (warning,) = summarized(long + arm("base", mixed[::-1], 20), rival="base").warnings
    assert (warning.code, len(warning.items)) == ("truncated_answers", 20)


def test_cached_tokens_are_known_only_if_they_are_of_every_answer() -> None:
    known = arm("adapter", [1] * 10, 20, cached_tokens=8)
    found = summarized(known + arm("base", [1] * 10, 20), rival="base")
    assert found.arms["adapter"].cached_tokens == 8
    assert found.arms["base"].cached_tokens is None
    assert found.token_moments is not None
    assert found.token_moments.requests == 10
    assert not found.token_moments.has_cached


def test_a_baseline_without_tokens_has_no_ratio() -> None:
    answers = arm("adapter", [1] * 20, 20) + arm("base", [0] * 20, 0)
    assert "prompt tokens" not in summarized(answers, rival="base").sentence
