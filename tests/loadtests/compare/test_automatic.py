import pytest

from loramux_loadtests.compare.automatic import AutoScorer

ORDERS = ['{"item": "tea", "count": 2}', '{"item": "milk", "count": 1}']


@pytest.mark.parametrize(
    ("expected", "measure"),
    [
        (ORDERS, "field accuracy"),
        (["refund", "late"] * 5, "label accuracy"),
        ([f"name {number}" for number in range(10)], "exact match"),
        (["Dear Ann, your parcel comes on Monday because of the storm in the north."] * 3, "chrF"),
    ],
)
def test_the_expected_answers_choose_the_score_that_decides(expected: list[str], measure: str) -> None:
    scorer = AutoScorer(type="auto").fit(expected)
    scores = scorer.score(expected[0], expected[0])
    assert next(iter(scores)) == measure
    assert set(scores.values()) == {1.0}


def test_half_an_object_gets_half_of_the_score() -> None:
    scores = AutoScorer(type="auto").fit(ORDERS).score('{"item": "tea", "count": 3}', ORDERS[0])
    assert (scores["field accuracy"], scores["same JSON"]) == (0.5, 0)


def test_scores_of_another_choice_are_not_reused() -> None:
    keys = [AutoScorer(type="auto").fit(expected).cache_key() for expected in (ORDERS, ["a", "b"] * 3, ["a", "c"] * 3)]
    assert keys[0] != keys[1] != keys[2]
