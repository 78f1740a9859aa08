import pytest

from loramux_adapters.evaluation.verdict import ScoreComparison, compare_scores, score_intervals
from loramux_adapters.evaluation.verdict_sentence import SampleAnswer, verdict_sentence


def scores(right: int, count: int) -> list[float]:
    return [1.0] * right + [0.0] * (count - right)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "sentence"),
    [
        (scores(19, 20), scores(0, 20), "better", "The new is better than the old by 0.95 ["),
        (scores(0, 20), scores(20, 20), "worse", "Keep the old: the new is worse by 1.00 [0."),
        (scores(180, 200), scores(179, 200), "as good", "The new is as good as the old within 0.05, +0.01 ["),
        (
            [1.0, 0.0] * 10,
            [0.0, 1.0] * 10,
            "not enough items",
            "20 items do not decide between the new and the old: no difference is shown, +0.00 [-0.4",
        ),
        (scores(9, 9), scores(0, 9), "not enough items", "9 items are too few for a verdict: the new relative to the"),
        (
            scores(0, 30),
            scores(0, 30),
            "neither works",
            "Neither the new nor the old works: on 30 items, 0.00 and 0.00",
        ),
    ],
)
def test_the_verdict_is_what_the_interval_allows(
    ours: list[float], theirs: list[float], verdict: str, sentence: str
) -> None:
    compared = compare_scores(ours, theirs)
    assert (compared.verdict, compared.items) == (verdict, len(ours))
    assert verdict_sentence(compared, "the new", "the old").startswith(sentence)


def test_prompting_that_got_nothing_right_is_never_recommended() -> None:
    """T1: 0 of 30 right for both prompted arms was "Keep prompting"."""
    for count in range(1, 60):
        for right in range(count + 1):
            compared = compare_scores(scores(right, count), scores(0, count))
            assert compared.verdict in {"better", "neither works", "not enough items"}
            assert not (compared.verdict == "neither works" and compared.is_not_worse)
            assert "Keep" not in verdict_sentence(compared, "the adapter", "the base")


def test_where_neither_works_the_sentence_asks_for_the_scorer_and_shows_answers() -> None:
    """T3: both arms 0 of 10."""
    compared = compare_scores(scores(0, 10), scores(0, 10))
    samples = [SampleAnswer("the adapter", "Sure!\nIt is a refund.", "refund"), SampleAnswer("the base", "", "refund")]
    sentence = verdict_sentence(compared, "the adapter", "the base", items_name="questions", samples=samples)
    assert sentence == (
        "Neither the adapter nor the base works: on 10 questions, 0.00 and 0.00 are not above 0 by more than 0.05. Is "
        "the scorer right, and do the answers follow from the questions? For example, the adapter answered “Sure! It "
        "is a refund.” where “refund” was expected, and the base answered “” where “refund” was expected."
    )
    assert compared.difference.low < -0.1
    assert compared.difference.high > 0.1


def test_a_scorer_that_gives_no_credit_to_answers_that_contain_the_expected_text_is_in_doubt() -> None:
    """T3: where neither works, the scorer comes first, and the verdict says so."""
    doubt = "the expected text stands inside 30 of 30 answers"
    compared = compare_scores(scores(0, 30), scores(0, 30), doubt=doubt)
    assert (compared.verdict, compared.reason, compared.is_not_worse) == ("scorer in doubt", doubt, False)
    sentence = verdict_sentence(compared, "a", "b", samples=[SampleAnswer("a", "<b>x</b>", "x")])
    assert sentence == (
        "The scorer is in doubt: the expected text stands inside 30 of 30 answers; the scores are 0.00 for a and "
        "0.00 for b. For example, a answered “<b>x</b>” where “x” was expected."
    )
    assert compare_scores(scores(30, 30), scores(0, 30), doubt=doubt).verdict == "better"


def test_an_arm_that_is_no_better_than_the_commonest_answer_does_not_work() -> None:
    always_yes, a_bit_better = scores(14, 20), scores(15, 20)
    assert compare_scores(a_bit_better, scores(2, 20), constant=always_yes).verdict == "neither works"
    assert compare_scores(a_bit_better, scores(2, 20)).verdict == "better"


def test_an_arm_that_may_be_better_than_the_commonest_answer_needs_more_items() -> None:
    compared = compare_scores(scores(12, 12), scores(0, 12), constant=[1.0, 0.0] * 6, comparisons=2)
    assert (compared.verdict, compared.reason) == (
        "not enough items",
        "neither is shown to score higher than one and the same answer to every item",
    )
    assert 12 < (compared.items_needed or 0) < 30
    sentence = verdict_sentence(compared, "a", "b")
    assert (
        "do not decide between a and b: the difference is shown, but neither is shown to be above the 0.50" in sentence
    )


def test_a_difference_below_the_margin_is_as_good_even_if_it_is_shown() -> None:
    ours, theirs = [0.52, 0.71] * 100, [0.50, 0.70] * 100
    assert compare_scores(ours, theirs).verdict == "as good"
    assert "better, but by less than the margin" in compare_scores(ours, theirs).reason
    better, worse = compare_scores(ours, theirs), compare_scores(theirs, ours)
    assert "within 0.05, shown to be better, but by less: +0.0" in verdict_sentence(better, "a", "b")
    assert "within 0.05, shown to be worse, but by less: -0.0" in verdict_sentence(worse, "a", "b")
    assert "worse, but by less than the margin" in compare_scores(theirs, ours).reason
    assert compare_scores(ours, theirs, margin=0.01).verdict == "better"


def test_not_worse_is_shown_by_the_lower_end_alone() -> None:
    wide = compare_scores([1.0, 1.0, 1.0, 0.0] * 20 + [0.0], [1.0, 1.0, 0.0, 0.0] * 20 + [1.0])
    assert wide.is_not_worse
    assert not compare_scores([1.0, 0.0] * 10, [0.0, 1.0] * 10).is_not_worse


def test_several_comparisons_are_each_made_at_a_higher_confidence() -> None:
    ours, theirs = scores(27, 30), scores(20, 30)
    alone, of_five = compare_scores(ours, theirs), compare_scores(ours, theirs, comparisons=5)
    assert (alone.confidence, of_five.confidence) == (0.95, 0.99)
    assert (alone.verdict, of_five.verdict) == ("better", "not enough items")
    assert of_five.difference.low < alone.difference.low


def test_the_items_that_would_decide_are_named_until_it_is_decided() -> None:
    undecided = compare_scores(scores(12, 20), scores(10, 20))
    needed = undecided.items_needed
    assert needed is not None
    assert needed > 20
    times = needed // 20 + 1
    assert compare_scores(scores(12, 20) * times, scores(10, 20) * times).verdict == "better"
    assert compare_scores(scores(18, 20), scores(2, 20)).items_needed is None
    rounded = -(-needed // 10) * 10
    assert 100 <= needed < 1000
    sentence = verdict_sentence(undecided, "a", "b", token_ratio=0.1, payback="; it pays")
    assert sentence.endswith(f"; about {rounded} items would decide, if this difference is the true one.")
    assert "prompt tokens" not in sentence
    few = compare_scores([1.0] * 8, [0.0] * 8)
    assert verdict_sentence(few, "a", "b").endswith("; at least 10 items are needed.")


def test_scores_of_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="paired"):
        compare_scores([1.0, 1.0], [1.0])


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": float("nan")}, {"comparisons": 0}])
def test_a_margin_or_number_of_comparisons_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="margin above 0"):
        compare_scores([1.0] * 10, [0.0] * 10, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "phrase"),
    [
        (1 / 18, " at 1/18 of the prompt tokens"),
        (0.5, " at 0.50 times the prompt tokens"),
        (1.0, " at the same prompt tokens"),
        (2.0, " at 2.00 times the prompt tokens"),
        (0.0, ""),
        (None, ""),
    ],
)
def test_the_sentence_says_how_many_prompt_tokens_it_takes(ratio: float | None, phrase: str) -> None:
    compared = compare_scores([1] * 10, [0] * 10)
    low, _, high = compared.difference
    sentence = verdict_sentence(compared, "a", "b", token_ratio=ratio)
    assert sentence == f"A is better than b by 1.00 [{low:.2f}, {high:.2f}]{phrase}."


def comparison(ours: int, theirs: int) -> ScoreComparison:
    return compare_scores(scores(ours, 100), scores(theirs, 100))


def test_every_verdict_carries_the_details_and_only_a_winner_or_an_equal_its_payback() -> None:
    for ours, theirs in ((99, 0), (0, 99), (99, 99), (50, 45), (0, 0)):
        sentence = verdict_sentence(comparison(ours, theirs), "a", "b", payback="; it pays", details="x")
        assert " (x)." in sentence
        assert ("; it pays" in sentence) == (comparison(ours, theirs).verdict in {"better", "as good"})


def test_a_score_has_an_interval_even_where_all_are_equal() -> None:
    intervals = score_intervals([{"exact": 1.0, "similarity": 0.5}] * 20)
    for low, estimate, high in intervals.values():
        assert high - low > 0.05
        assert low <= estimate <= high
