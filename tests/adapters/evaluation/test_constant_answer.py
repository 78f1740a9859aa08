from loramux_adapters.evaluation.constant_answer import best_constant, constant_scores, most_frequent_answer


def test_the_most_frequent_answer_is_the_constant() -> None:
    assert most_frequent_answer(["a", "b", " b\n", "c"]) == "b"


def test_of_unique_answers_no_constant_is_ever_right() -> None:
    assert most_frequent_answer(["a", "b", "c"]) is None
    assert most_frequent_answer([]) is None
    assert constant_scores(lambda *_: 1.0, None, ["a", "b"]) == [0.0, 0.0]


def test_a_constant_is_scored_once_for_each_distinct_expected_answer() -> None:
    calls = []

    def score(answer: str, expected: str) -> float:
        calls.append(expected)
        return float(answer == expected)

    assert constant_scores(score, "b", ["a", "b", "b", "a"]) == [0.0, 1.0, 1.0, 0.0]
    assert calls == ["a", "b"]


def equal(answer: str, expected: str) -> float:
    return float(answer == expected)


def test_the_best_constant_is_the_one_that_scores_highest_on_these_items() -> None:
    assert best_constant(equal, ["a", "b", "b", "c"]) == ("b", [0.0, 1.0, 1.0, 0.0])


def test_an_answer_that_is_expected_once_does_not_count_where_it_is() -> None:
    assert best_constant(equal, ["a", "b", "c"]) == (None, [0.0, 0.0, 0.0])


def test_a_graded_score_has_a_best_constant_even_if_all_answers_differ() -> None:
    constant, scores = best_constant(
        lambda answer, expected: len(set(answer) & set(expected)) / 3, ["abx", "aby", "cbz"]
    )
    assert constant == "abx"
    assert scores == [0.0, 2 / 3, 1 / 3]
