from collections.abc import Sequence

from loramux_adapters.evaluation.answer_checks import CheckedAnswer, check_answers, scorer_doubt
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning

EXPECTED = ["refund", "card", "loan", "refund"] * 5


def arm(answers: Sequence[str], *, truncated: frozenset[int] = frozenset(), other: float = 0.2) -> list[CheckedAnswer]:
    return [
        CheckedAnswer(index, answer, expected, {"exact": float(answer == expected), "other": other}, index in truncated)
        for index, (answer, expected) in enumerate(zip(answers, EXPECTED, strict=True))
    ]


def found(**arms: list[CheckedAnswer]) -> list[EvaluationWarning]:
    return check_answers(arms, "exact")


def test_good_answers_have_no_warnings() -> None:
    assert found(base=arm(["card"] * 20), adapter=arm(EXPECTED)) == []


def test_expected_answers_that_all_good_arms_contradict_are_named() -> None:
    answers = ["card", *EXPECTED[1:]]
    (warning,) = found(base=arm(answers), adapter=arm(answers), bare=arm(["?"] * 20))
    assert (warning.code, warning.items) == ("wrong_label", (0,))
    assert "1 expected answer(s) may be wrong: base and adapter agree on another one" in warning.message
    assert "“card” where “refund” is expected" in warning.message
    assert "1 of the 1 items that all of these miss; without them exact is: base 1.00, adapter 1.00" in warning.message


def test_arms_that_are_mostly_wrong_do_not_outvote_an_expected_answer() -> None:
    assert found(base=arm(["card"] * 20), bare=arm(["card"] * 20)) == []


def test_arms_that_agree_on_wrong_answers_only_now_and_then_do_not_outvote_the_expected_ones() -> None:
    ours, theirs = ["card", "loan", "card", *EXPECTED[3:]], ["card", "refund", "refund", *EXPECTED[3:]]
    assert found(base=arm(ours), adapter=arm(theirs)) == []


def test_an_agreement_that_differs_only_in_case_is_no_wrong_label() -> None:
    answers = ["Refund.", *EXPECTED[1:]]
    assert found(base=arm(answers), adapter=arm(answers)) == []


def test_a_scorer_that_gives_everyone_0_is_named_with_those_that_tell_apart() -> None:
    """T3: "Where they differ most: Nowhere", and no word about the scorer."""
    (warning,) = found(base=arm(["?"] * 20, other=0.0), adapter=arm(["!"] * 20, other=0.5))
    assert warning.code == "same_scores"
    assert warning.message == (
        "exact is 0.00 for every answer of every arm: is the scorer right?; other tell the answers apart"
    )


def test_a_measure_that_gives_everyone_1_is_named_too() -> None:
    (warning,) = found(base=arm(EXPECTED), adapter=arm(EXPECTED))
    assert warning.message.startswith("exact is 1.00 for every answer of every arm: are the items too easy")


def test_a_stricter_score_that_is_never_reached_is_named() -> None:
    (warning,) = found(base=arm(["?"] * 20, other=0.0), adapter=arm(EXPECTED, other=0.0))
    assert warning.code == "never_right"
    assert warning.message == "other is 0.00 for every answer of every arm, although exact is not"


def test_members_of_json_that_no_arm_ever_has_right_are_named() -> None:
    expected = [f'{{"item": "tea", "note": "n{i}"}}' for i in range(12)]
    answers = [
        CheckedAnswer(i, '{"item": "tea", "note": "?"}', text, {"field accuracy": 0.5, "same JSON": 0.0})
        for i, text in enumerate(expected)
    ]
    same, member = check_answers({"base": answers, "adapter": answers}, "field accuracy")[1:]
    assert same.message == "same JSON is 0.00 for every answer of every arm, although field accuracy is not"
    assert member.message == "no arm ever has “note” as expected: can it follow from the question?"


def test_an_answer_with_the_expected_text_inside_puts_the_scorer_in_doubt() -> None:
    wrapped = arm([f"<b>{answer}</b>" for answer in EXPECTED])
    assert scorer_doubt({"base": arm(["?"] * 20), "adapter": wrapped}, "exact") == (
        "the expected text stands inside 20 of 20 answers of the arm “adapter” without full credit"
    )
    assert scorer_doubt({"base": arm(["?"] * 20), "adapter": arm(["card"] * 20)}, "exact") == ""


def test_answers_that_are_right_put_the_scorer_in_no_doubt() -> None:
    assert scorer_doubt({"base": arm(EXPECTED), "adapter": arm(EXPECTED)}, "exact") == ""


def test_empty_and_truncated_answers_are_counted_from_a_share_on() -> None:
    warnings = found(base=arm(["", "", *EXPECTED[2:]]), adapter=arm(EXPECTED, truncated=frozenset({3, 4})))
    assert [(each.code, each.items) for each in warnings] == [("empty_answers", (0, 1)), ("truncated_answers", (3, 4))]
    assert warnings[0].message == "base: 2 of 20 answers are empty"
    assert found(base=arm(["", *EXPECTED[1:]]), adapter=arm(EXPECTED)) == []
