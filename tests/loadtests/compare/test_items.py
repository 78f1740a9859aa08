import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import read_items, read_prompt

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def test_the_last_message_is_the_expected_answer_and_system_messages_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    messages = [("system", "x"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    path.write_text(json.dumps({"messages": [{"role": role, "content": text, "weight": 1} for role, text in messages]}))
    [item] = read_items(path)
    assert [message["content"] for message in item.messages] == ["a", "b", "c"]
    assert item.expected == "d"


def test_a_byte_order_mark_empty_lines_and_unicode_line_separators_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text("\ufeff" + GOOD.replace('"b"', '"b\u2028c"') + "\n", encoding="utf-8")
    assert [item.expected for item in read_items(path)] == ["b\u2028c"]


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
        (GOOD.replace('"a"', '""'), "line 1: messages.0.content"),
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


@given(text=st.text(max_size=50) | st.sampled_from(["[1]", "{}", '[{"role": "tool", "content": "x"}]']))
def test_any_prompt_file_gives_messages_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "prompt.json"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert all(set(message) == {"role", "content"} for message in read_prompt(path))
    except ComparisonError as error:
        assert "prompt.json" in str(error)
