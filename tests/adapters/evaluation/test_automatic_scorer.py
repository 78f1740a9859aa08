import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.scorers.automatic import choose_scorer

LONG = "The parcel is on its way and will be with you by noon tomorrow."


def scored(answer: str, expected: str, others: tuple[str, ...] = ()) -> dict[str, float]:
    return choose_scorer([expected, *others]).score(answer, expected)


def test_few_short_answers_that_repeat_are_labels() -> None:
    """T7: the right label inside of other words counts, and exact match explains."""
    labels = ("refund", "card") * 3
    scorer = choose_scorer(labels)
    assert scorer.measure == "label accuracy"
    assert scorer.score("It is a refund.", "refund") == {"label accuracy": 1, "exact match": 0}
    assert scorer.score("<think>\n\n</think>\n\nrefund", "refund") == {"label accuracy": 1, "exact match": 1}
    assert scorer.score(" Refund\n", "refund")["label accuracy"] == 1
    assert scorer.score("refund or card", "refund")["label accuracy"] == 0


def test_short_answers_that_do_not_repeat_are_right_or_wrong() -> None:
    assert next(iter(scored(" refund\n", "refund").items())) == ("exact match", 1.0)
    assert scored("a refund", "refund")["exact match"] == 0.0
    assert choose_scorer(["refund", "card"]).measure == "exact match"
    assert choose_scorer([f"answer {i}" for i in range(150)] * 3).measure == "exact match"


def test_of_json_the_share_of_equal_members_decides() -> None:
    """T1: exact match was 0.00 for both prompted arms, and told nothing."""
    expected = '{"name": "play", "count": 2}'
    assert choose_scorer([expected]).measure == "field accuracy"
    assert scored('{"count": 2,  "name": "play"}', expected) == {"same JSON": 1, "valid JSON": 1, "field accuracy": 1}
    assert scored('{"count": 3, "name": "play"}', expected) == {"same JSON": 0, "valid JSON": 1, "field accuracy": 0.5}
    assert scored('Sure: {"count": 2}', expected) == {"same JSON": 0, "valid JSON": 0, "field accuracy": 0}


def test_another_measure_may_be_told_to_decide() -> None:
    scorer = choose_scorer(["{}"]).decide_by("valid JSON")
    assert scorer.measure == "valid JSON"
    assert scorer.score("{}", "{}").keys() == {"field accuracy", "same JSON", "valid JSON"}


def test_an_object_without_members_is_not_matched_by_any_answer() -> None:
    assert scored('{"a": 1}', "{}")["field accuracy"] == 0
    assert scored("{}", "{}")["field accuracy"] == 1


def test_one_answer_that_is_not_json_makes_all_of_them_text() -> None:
    assert "same JSON" not in scored("{}", "{}", ("none",))


def test_long_answers_can_be_nearly_right() -> None:
    name, similar = next(iter(scored(LONG.replace("noon", "nine"), LONG).items()))
    assert name == "chrF"
    assert 0.8 < similar < 1
    assert scored("No.", LONG)[name] < 0.1


def test_texts_in_a_script_without_spaces_can_be_nearly_right_too() -> None:
    expected = "您的包裹正在运送途中，预计明天中午之前送达。"
    assert 0.5 < scored(expected.replace("中午", "晚上"), expected)["chrF"] < 1
    assert choose_scorer([expected]).measure == "chrF"
    assert choose_scorer(["退款", "信用卡"] * 3).measure == "label accuracy"


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)


@pytest.mark.slow
@given(answer=st.text() | JSON, expected=st.text(min_size=1))
def test_any_answer_has_scores_between_0_and_1(answer: str, expected: str) -> None:
    for scores in (scored(answer, expected), scored(answer, '{"a": 1}')):
        assert all(0 <= score <= 1 + 1e-9 for score in scores.values())
