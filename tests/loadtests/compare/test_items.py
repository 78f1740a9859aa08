import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.items import Chat
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import add_prompt, read_items, read_prompt, system_messages
from tests.helpers.comparisons import chat

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def test_the_last_message_is_the_expected_answer_and_the_others_are_the_question(tmp_path: Path) -> None:
    """T2: a system message is part of the question, as every other message is."""
    path = tmp_path / "test.jsonl"
    messages = [("system", "x"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    path.write_text(json.dumps({"messages": [{"role": role, "content": text, "weight": 1} for role, text in messages]}))
    [item] = read_items(path).items
    assert [message["content"] for message in item.messages] == ["x", "a", "b", "c"]
    assert item.expected == "d"


def line(**keys: Any) -> str:
    """A conversation with other keys in its first message; those of the line itself begin with `line_`."""
    own = {key: value for key, value in keys.items() if not key.startswith("line_")}
    messages = [{"role": "user", "content": "a"} | own, {"role": "assistant", "content": "b"}]
    whole = {key.removeprefix("line_"): value for key, value in keys.items() if key.startswith("line_")}
    return json.dumps({"messages": messages} | whole)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"tool_calls": [{"id": "1"}]}, "messages.0.tool_calls.0.function: Field required"),
        ({"tool_calls": [CALL]}, "tool_calls: allowed only in messages of the assistant"),
        ({"tool_call_id": "1"}, "tool_call_id: expected in messages of the role tool"),
        ({"content": None}, "content: expected a text"),
        ({"refusal": "no"}, "a message with 'refusal' can't be sent"),
        ({"name": 5}, "messages.0.name"),
        ({"content": [{"type": "image_url"}]}, "messages.0.content: expected a text, or a list of parts"),
        ({"content": [{"type": "text", "text": 7}]}, "messages.0.content"),
        ({"content": [{"type": "text"}]}, "messages.0.content"),
        ({"content": [{"type": []}]}, "messages.0.content"),
        ({"role": "tool"}, "tool_call_id: expected in messages of the role tool"),
        ({"role": "function"}, "messages.0.role"),
        ({"line_tools": [{"type": "function"}]}, "tools.0.function: Field required"),
        ({"line_tool_choice": "required"}, "'tool_choice' is not sent by a comparison, and would change the answer"),
        ({"line_response_format": {"type": "json_object"}}, "'response_format' is not sent"),
        ({"line_temperature": 1}, "'temperature' is not sent"),
    ],
)
def test_what_a_comparison_does_not_send_is_refused_and_never_dropped(
    tmp_path: Path, keys: dict[str, Any], reason: str
) -> None:
    """T2: the same holds for everything else of an item: it is sent, or the file is refused."""
    path = tmp_path / "test.jsonl"
    path.write_text(line(**keys))
    with pytest.raises(ComparisonError, match=f"line 1: .*{re.escape(reason)}"):
        read_items(path)


def test_tools_are_sent_and_calls_are_expected(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "1", "content": ""}
    messages = [{"role": "user", "content": "a"}, calling, result, calling]
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"messages": messages, "tools": [tool], "parallel_tool_calls": False}))
    [item], notes = read_items(path)
    assert item.messages == messages[:3]
    assert (item.tools, item.parallel_tool_calls, notes) == ([tool], False, frozenset())
    assert item.expected == '{"tool_calls": [{"name": "f", "arguments": {"a": 1}}]}'


def test_names_are_sent_empty_keys_say_nothing_and_notes_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(line(name="Ann", tool_calls=None, weight=0, line_id=7, line_tools=[]) + "\n" + line(refusal=None))
    found = read_items(path)
    assert [item.messages for item in found.items] == [
        [{"role": "user", "content": "a", "name": "Ann"}],
        [{"role": "user", "content": "a"}],
    ]
    assert found.notes == {"id"}


def test_what_training_accepts_is_sent_as_it_is_trained(tmp_path: Path) -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]
    kept = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = CALL | {"index": 0, "type": "function"}
    answer = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm", "refusal": None}
    messages = [{"role": "system", "content": None}, {"role": "user", "content": parts, "id": 1}, answer]
    path = tmp_path / "test.jsonl"
    path.write_text("\ufeff" + json.dumps({"messages": messages}) + "\r\n\r\n", newline="")
    found = read_items(path)
    assert found.items[0].messages == [{"role": "system", "content": ""}, {"role": "user", "content": kept}]
    assert found.notes == {"messages.id", "messages.reasoning"}


def test_a_system_message_is_kept_unless_the_prompt_has_one() -> None:
    """T2: `compare` dropped the system message that the adapter was trained with."""
    question = chat("system: own", "developer: rules", "user: a", "assistant: b", "system: later", "user: c")
    assert add_prompt([], question) == question
    assert add_prompt(chat("system: other"), question) == [*chat("system: other"), *question[2:]]
    shots = chat("user: x", "assistant: y")
    assert add_prompt(shots, question) == [*question[:2], *shots, *question[2:]]
    assert add_prompt(shots, chat("user: c")) == [*shots, *chat("user: c")]


@given(
    prompt=st.lists(st.sampled_from(chat("system: p", "user: q", "assistant: r")), max_size=4),
    question=st.lists(st.sampled_from(chat("system: s", "developer: d", "user: t", "assistant: u")), max_size=5),
)
def test_no_message_but_a_replaced_system_message_is_ever_lost(prompt: Chat, question: Chat) -> None:
    sent = add_prompt(prompt, question)
    lost = [message for message in [*prompt, *question] if message not in sent]
    assert len(sent) == len(prompt) + len(question) or system_messages(prompt)
    assert all(message in system_messages(question) for message in lost)
    assert not system_messages(question) or system_messages(sent)


def test_a_byte_order_mark_empty_lines_and_unicode_line_separators_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text("\ufeff" + GOOD.replace('"b"', '"b\u2028c"') + "\n", encoding="utf-8")
    assert [item.expected for item in read_items(path).items] == ["b\u2028c"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (GOOD + "{", "line 2: Invalid JSON"),
        (GOOD + "\n\n" + "{", "line 4: Invalid JSON"),
        (GOOD + "{}\n", "line 2: messages: Field required"),
        ('{"messages": []}', "line 1: messages: "),
        (GOOD.replace("assistant", "user"), "line 1: the last message must be the assistant's"),
        (GOOD.replace('"user"', '"system"'), "line 1: the last message must be the assistant's, after a user's"),
        (GOOD.replace('"a"', '""'), "line 1: messages.0: content: expected a text"),
        (GOOD.replace('"a"', "[]"), "line 1: messages.0.content"),
        ("{}\n" * 30, "line 10: .*, and 20 more"),
    ],
)
def test_a_broken_file_is_refused_with_its_lines(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(content)
    with pytest.raises(ComparisonError, match=rf"test.jsonl can't be read: .*{reason}"):
        read_items(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "test.jsonl"
    if content:
        path.write_bytes(content)
    for read in (read_items, read_prompt):
        with pytest.raises(ComparisonError, match=r"test.jsonl can't be read"):
            read(path)


def test_a_prompt_is_messages_or_the_text_of_a_system_message(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"role": "user", "content": "hi"}]')
    (tmp_path / "b.txt").write_text(" Be brief.\n")
    (tmp_path / "c.txt").write_text("\n")
    assert read_prompt(tmp_path / "a.json") == [{"role": "user", "content": "hi"}]
    assert read_prompt(tmp_path / "b.txt") == [{"role": "system", "content": "Be brief."}]
    assert read_prompt(tmp_path / "c.txt") == []


def test_the_first_examples_of_a_prompt_can_be_taken_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    shots = chat("user: a", "assistant: b", "user: c", "assistant: d")
    path.write_text(json.dumps([*chat("system: s"), *shots]))
    assert read_prompt(path, 0) == chat("system: s")
    assert read_prompt(path, 1) == [*chat("system: s"), *shots[:2]]
    assert read_prompt(path, 2) == read_prompt(path)
    with pytest.raises(ComparisonError, match=r"a\.json has 2 examples, fewer than 3"):
        read_prompt(path, 3)
    path.write_text(json.dumps(shots[1:]))
    with pytest.raises(ComparisonError, match=r"a\.json: `examples` needs pairs"):
        read_prompt(path, 1)


@given(text=st.text(max_size=50) | st.sampled_from(["[1]", "{}", '[{"role": "tool", "content": "x"}]']))
def test_any_prompt_file_gives_messages_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "prompt.json"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert all({"role", "content"} <= set(message) <= {"role", "content", "name"} for message in read_prompt(path))
    except ComparisonError as error:
        assert "prompt.json" in str(error)
