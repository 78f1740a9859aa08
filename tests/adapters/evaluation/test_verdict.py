import pytest

from loramux_adapters.evaluation.statistics import mean_interval
from loramux_adapters.evaluation.verdict import MIN_ITEMS, compare_scores, score_intervals, verdict_sentence


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "sentence"),
    [
        ([1] * 19 + [0], [0] * 20, "better", "The new is better than the old by 0.95 ["),
        ([0] * 20, [1] * 20, "worse", "Keep the old: the new is worse by 1.00 [-1.00, -1.00]"),
        ([1, 0] * 10, [0, 1] * 10, "no difference shown", "Keep the old, unless cost decides: for the new no differe"),
        ([1] * 9, [0] * 9, "too few items", "9 items are too few for a verdict: the new relative to the old +1.00 ["),
    ],
)
def test_the_verdict_is_what_the_interval_allows(
    ours: list[float], theirs: list[float], verdict: str, sentence: str
) -> None:
    compared = compare_scores(ours, theirs)
    assert (compared.verdict, compared.items) == (verdict, len(ours))
    assert verdict_sentence(compared, "the new", "the old").startswith(sentence)


def test_the_difference_is_taken_item_by_item() -> None:
    # Each alone varies widely, yet one is better by the same on every item: the interval must be a point.
    assert compare_scores([0.5, 1.0] * 6, [0.0, 0.5] * 6).difference == (0.5, 0.5, 0.5)


def test_scores_of_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_scores([1.0, 1.0], [1.0])


@pytest.mark.parametrize(
    ("ratio", "phrase"),
    [
        (1 / 18, " at 1/18 of the prompt tokens"),
        (0.5, " at 0.50 times the prompt tokens"),
        (1.0, " at the same prompt tokens"),
        (2.0, " at 2.00 times the prompt tokens"),
        (0.0, "."),
        (None, "."),
    ],
)
def test_the_sentence_says_how_many_prompt_tokens_it_takes(ratio: float | None, phrase: str) -> None:
    sentence = verdict_sentence(compare_scores([1] * 10, [0] * 10), "a", "b", token_ratio=ratio)
    assert sentence.removeprefix("A is better than b by 1.00 [+1.00, +1.00]") == f"{phrase.rstrip('.')}."


def test_every_verdict_carries_the_details_and_only_a_winner_or_a_tie_its_payback() -> None:
    for ours, theirs in ((1, 0), (0, 1), (1, 1)):
        compared = compare_scores([ours] * MIN_ITEMS, [theirs] * MIN_ITEMS)
        sentence = verdict_sentence(compared, "a", "b", payback="; it pays", details="x")
        assert sentence.endswith(" (x).")
        assert ("; it pays" in sentence) == (compared.verdict != "worse")


def test_a_share_has_an_interval_even_where_all_scores_are_equal() -> None:
    intervals = score_intervals([{"exact": 1.0, "similarity": 0.5}] * 20)
    assert intervals["exact"] == mean_interval([1.0] * 20)
    assert intervals["exact"].low < 1 == intervals["exact"].high
    assert intervals["similarity"] == (0.5, 0.5, 0.5)
