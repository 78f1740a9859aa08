import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.engine.answer_text import MAX_CHARACTERS, TextCollector, question_of, texts_of

CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def body(*messages: dict[str, Any]) -> bytes:
    return json.dumps({"choices": [{"index": n, "message": message} for n, message in enumerate(messages)]}).encode()


def event(index: int, **delta: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': index, 'delta': delta}]})}\n\n"


def test_each_choice_has_a_text_and_an_empty_answer_is_one() -> None:
    """An answer that is empty is a bad one, not one that can't be scored."""
    assert texts_of(body({"content": "a"}, {"content": ""}, {"content": None})) == ["a", "", ""]


def test_a_tool_call_without_text_has_none() -> None:
    assert texts_of(body({"content": None, "tool_calls": CALL}, {"content": "a", "tool_calls": CALL})) == ["a"]


@pytest.mark.parametrize("odd", [b"", b"[]", b"{}", b'{"choices": [1]}', b'{"choices": null}', b"\xff"])
def test_a_body_that_is_no_completion_has_no_texts(odd: bytes) -> None:
    assert texts_of(odd) == []


def test_a_stream_is_collected_by_choice() -> None:
    collector = TextCollector()
    for sent in (
        event(0, role="assistant", content=""),
        event(1, content="x"),
        event(0, content="a") + event(0, content="b"),
    ):
        collector.add(sent)
    assert not collector.is_complete
    collector.add("data: [DONE]\n\n")
    assert (collector.texts, collector.is_complete) == (["ab", "x"], True)


def test_a_streamed_tool_call_has_no_text() -> None:
    collector = TextCollector()
    collector.add(event(0, role="assistant", content=""))
    collector.add(event(0, tool_calls=CALL))
    assert collector.texts == []


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=8))
def test_a_stream_of_anything_is_collected_without_an_error(events: list[str | bytes]) -> None:
    collector = TextCollector()
    for sent in [*events, 'data: {"choices": [{"index": {}}]}', "data: {", 'data: {"choices": 3}']:
        collector.add(sent)
    assert collector.texts == []


def test_long_texts_are_cut() -> None:
    collector = TextCollector()
    for _ in range(3):
        collector.add(event(0, content="x" * MAX_CHARACTERS))
    assert len(collector.texts[0]) == MAX_CHARACTERS
    assert len(texts_of(body({"content": "x" * (MAX_CHARACTERS + 1)}))[0]) == MAX_CHARACTERS


def test_the_question_is_the_last_users_text() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {}}]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "c"},
    ]
    assert question_of(messages) == "b"
    assert question_of([{"role": "system", "content": "a"}, "odd", {"role": "user"}]) == ""
