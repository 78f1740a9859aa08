from loramux_adapters.evaluation.selection import best_variant, split_for_selection


def test_a_quarter_of_the_items_is_for_choosing_and_never_more_than_the_maximum() -> None:
    selection, rest = split_for_selection(40)
    assert (len(selection), len(rest)) == (10, 30)
    assert sorted([*selection, *rest]) == list(range(40))
    assert len(split_for_selection(1000).selection) == 20
    assert split_for_selection(40) == split_for_selection(40)


def test_too_few_items_are_not_split() -> None:
    assert split_for_selection(19).selection == []
    assert len(split_for_selection(19).rest) == 19
    assert split_for_selection(0).rest == []


def test_the_highest_score_is_chosen() -> None:
    assert best_variant({"bare": 0.2, "4 examples": 0.6, "16 examples": 0.4}) == "4 examples"


def test_of_equal_scores_the_cheapest_prompt_is_chosen() -> None:
    assert best_variant({"bare": 0.4, "instructions": 0.5, "16 examples": 0.5}) == "instructions"


def test_where_nothing_scored_the_largest_prompt_is_chosen() -> None:
    """T1: `max()` broke a tie at 0.00 towards the bare base."""
    assert best_variant({"bare": 0.0, "instructions": 0.0, "16 examples": 0.0}) == "16 examples"
