from pathlib import Path

import pytest

from loramux_loadtests.verdict import BEGIN, END, Comparison, Row, summarize, table, write_table


def rows(arm: str, scores: list[float], tokens: int = 10) -> list[Row]:
    return [
        Row(arm, item, {"correct": score, "valid": 1.0}, tokens, tokens // 2, 3, "text")
        for item, score in enumerate(scores)
    ]


def compared(mine: list[float], theirs: list[float]) -> Comparison:
    return summarize(
        "till", "tiny-base", rows("ours", mine) + rows("theirs", theirs, 200), challenger="ours", rival="theirs"
    )


def test_the_difference_is_taken_item_by_item() -> None:
    # Each arm alone varies widely, yet one is better by the same on every item: the interval must be a point.
    comparison = compared([0.5, 1.0, 0.5, 1.0], [0.0, 0.5, 0.0, 0.5])
    assert comparison.difference == (0.5, 0.5, 0.5)
    low, estimate, high = comparison.arms["ours"].scores["correct"]
    assert (estimate, high - low > 0.2) == (0.75, True)


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ([1] * 19 + [0], [0] * 20, "better"),
        ([0] * 20, [1] * 19 + [0], "worse"),
        ([1, 0] * 10, [0, 1] * 10, "no difference shown"),
        ([1] * 20, [1] * 20, "no difference shown"),
        ([1] * 11 + [0] * 9, [1] * 10 + [0] * 10, "no difference shown"),  # more on average, but by one item
    ],
)
def test_the_verdict_is_what_the_interval_allows(mine: list[float], theirs: list[float], verdict: str) -> None:
    assert compared(mine, theirs).verdict == verdict


def test_rows_may_come_in_any_order() -> None:
    mixed = rows("ours", [1, 0, 1])[::-1] + rows("theirs", [1, 0, 0])
    assert summarize("till", "tiny", mixed, challenger="ours", rival="theirs").difference.estimate == pytest.approx(
        1 / 3
    )


def test_arms_that_answered_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        summarize("till", "tiny", rows("ours", [1]) + rows("theirs", [1, 0]), challenger="ours", rival="theirs")


def test_tokens_are_means_of_a_request() -> None:
    arm = compared([1, 0], [0, 1]).arms["theirs"]
    assert (arm.input_tokens, arm.cached_tokens, arm.output_tokens) == (200, 100, 3)


def test_the_table_holds_every_arm_and_the_verdict() -> None:
    text = table(compared([1] * 4, [0] * 4))
    assert "| ours | 100.0 % [100.0 %, 100.0 %] | 100.0 % [100.0 %, 100.0 %] | 10 | 5 | 3 |" in text
    assert "ours against theirs: **better**, by a paired difference of +100.0 points [+100.0, +100.0]." in text


def test_results_survive_being_written() -> None:
    comparison = compared([1, 0], [0, 0])
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_only_what_stands_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(page, [compared([1], [0])])
    once = page.read_text()
    write_table(page, [compared([1], [0])])
    assert page.read_text() == once
    assert once.startswith(f"before\n{BEGIN}\n`till` on tiny-base, 1 held-out items")
    assert once.endswith(f"{END}\nafter\n")
    assert "old" not in once


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END} {BEGIN}"])
def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="no place for results"):
        write_table(page, [compared([1], [0])])
    assert page.read_text() == text
