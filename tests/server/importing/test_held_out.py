import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.importing.held_out import as_items, hold_out, split_lines


def line(question: str, answer: str = "a") -> bytes:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode()


@given(st.lists(st.integers(0, 60), max_size=120), st.floats(0, 0.5), st.randoms())
def test_a_split_loses_nothing_keeps_equal_prompts_together_and_does_not_depend_on_the_order(
    numbers: list[int], share: float, rng: "st.DrawFn"
) -> None:
    lines = [line(f"question {number}", f"answer {place}") for place, number in enumerate(numbers)]
    split = hold_out(lines, share)
    assert sorted(split.training + split.held_out) == sorted(lines)
    prompts = [{json.dumps(json.loads(one)["messages"][:1]) for one in part} for part in split]
    assert not prompts[0] & prompts[1]
    assert not split.held_out or len(split.training) >= 10
    shuffled = list(lines)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(hold_out(shuffled, share).held_out) == sorted(split.held_out)


@pytest.mark.parametrize(("count", "share", "expected"), [(1000, 0.1, 100), (60, 0.1, 10), (29, 0.1, 0), (60, 0.0, 0)])
def test_a_share_is_held_out_unless_too_few_would_be_left(count: int, share: float, expected: int) -> None:
    assert len(hold_out([line(str(number)) for number in range(count)], share).held_out) == expected


@given(st.lists(st.binary(), max_size=40))
def test_lines_that_are_no_examples_are_split_without_an_error(lines: list[bytes]) -> None:
    found = split_lines(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert all(found)
    split = hold_out(found, 0.5)
    assert len(split.training) + len(split.held_out) == len(found)
    as_items(found)


def test_of_a_preference_the_preferred_answer_is_expected() -> None:
    prompt, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    preference = {
        "input": {"messages": [prompt], "tools": []},
        "preferred_output": [answer],
        "non_preferred_output": [{"role": "assistant", "content": "what"}],
    }
    [item] = as_items([json.dumps(preference).encode()])
    assert json.loads(item) == {"messages": [prompt, answer]}
