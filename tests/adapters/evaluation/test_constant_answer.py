from loramux_adapters.evaluation.constant_answer import constant_scores, most_frequent_answer


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
