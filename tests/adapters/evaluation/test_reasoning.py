import pytest

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.reasoning import after_reasoning
from loramux_adapters.evaluation.scorers.automatic import choose_scorer

CALLING = answer_text(
    {"content": "<think>hm</think>", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "</think>"}'}}]}
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nred?\n</think>\n\ngreen", "green"),
        ("red?</think>green", "green"),
        ("<think>red", ""),
        (" green ", " green "),
        ("", ""),
        (CALLING, CALLING),
    ],
)
def test_what_comes_after_the_reasoning_is_the_answer(text: str, answer: str) -> None:
    assert after_reasoning(text) == answer


def test_a_label_within_the_reasoning_is_not_scored() -> None:
    """T7: what a base thought of counted as its answer."""
    scorer = choose_scorer(["red", "green"] * 3)
    assert scorer.score("<think>red or green?</think>\n\ngreen", "green")["label accuracy"] == 1
    assert scorer.score("<think>green", "green")["label accuracy"] == 0


def test_reasoning_in_the_training_data_does_not_hide_the_labels() -> None:
    assert (
        choose_scorer([f"<think>{i}</think>{'red' if i % 2 else 'green'}" for i in range(8)]).measure
        == "label accuracy"
    )
