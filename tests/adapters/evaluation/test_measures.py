import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.measures import Mean, measures_for

LONG = "The parcel is on its way and will be with you by noon tomorrow."


def scored(answer: str, wanted: str, others: tuple[str, ...] = ()) -> dict[str, float]:
    return {measure.name: measure.score(answer, wanted) for measure in measures_for([wanted, *others])}


def test_labels_are_right_or_wrong_but_for_the_space_around_them() -> None:
    assert next(iter(scored(" refund\n", "refund").items())) == ("exact match", 1.0)
    assert scored("a refund", "refund")["exact match"] == 0.0


def test_json_is_compared_as_a_value() -> None:
    wanted = '{"name": "play", "count": 2}'
    assert scored('{"count": 2,  "name": "play"}', wanted) == {"same JSON": 1, "valid JSON": 1, "members": 1}
    assert scored('{"count": 3, "name": "play"}', wanted) == {"same JSON": 0, "valid JSON": 1, "members": 0.5}
    assert scored('Sure: {"count": 2}', wanted) == {"same JSON": 0, "valid JSON": 0, "members": 0}


def test_one_answer_that_is_no_json_makes_all_of_them_text() -> None:
    assert "same JSON" not in scored("{}", "{}", ("none",))


def test_long_answers_can_be_nearly_right() -> None:
    name, similar = next(iter(scored(LONG.replace("noon", "nine"), LONG).items()))
    assert name == "word similarity"
    assert 0.9 < similar < 1
    assert scored("No.", LONG)[name] == 0


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)


@given(answer=st.text() | JSON, wanted=st.text())
def test_whatever_a_model_says_has_scores_between_0_and_1(answer: str, wanted: str) -> None:
    for scores in (scored(answer, wanted), scored(answer, '{"a": 1}')):
        assert all(0 <= score <= 1 for score in scores.values())


def test_nested_brackets_without_an_end_are_no_json() -> None:
    assert scored("[" * 100_000, "{}")["valid JSON"] == 0


def test_a_mean_lies_within_its_bounds_and_more_values_bring_them_nearer() -> None:
    few, many = Mean.of([0, 1] * 10), Mean.of([0, 1] * 200)
    assert few.low < few.mean == 0.5 < few.high
    assert few.high - few.low == pytest.approx(0.44, abs=0.08)  # 2 * 1.96 * 0.5 / sqrt(20)
    assert many.high - many.low < few.high - few.low
    assert Mean.of([0, 1] * 10) == few


def test_values_that_are_all_the_same_leave_no_doubt() -> None:
    assert Mean.of([1.0]) == Mean(low=1, mean=1, high=1)
