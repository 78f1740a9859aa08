import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from loramux_adapters.finetuning.datasets.examples import examples_of
from loramux_adapters.finetuning.datasets.reader import MAX_LINE_BYTES, MAX_PROBLEMS, read_dataset
from loramux_adapters.finetuning.errors import InvalidDataset

USER = {"role": "user", "content": "Where is my parcel?"}
ANSWER = {"role": "assistant", "content": "order_status"}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def parts(*content: dict[str, Any]) -> dict[str, Any]:
    return ANSWER | {"content": list(content)}


def problem(folder: Path, line: object) -> str:
    with pytest.raises(InvalidDataset) as refused:
        read_dataset(written(folder, chat(USER, ANSWER), line))
    [(number, reason)] = refused.value.problems
    assert number == 2
    return reason


def test_every_line_is_a_conversation(tmp_path: Path) -> None:
    conversations = read_dataset(written(tmp_path, chat(USER, ANSWER), chat(USER, ANSWER)))
    assert [message.content for message in conversations[1].messages] == ["Where is my parcel?", "order_status"]


def test_an_answer_is_trained_on_with_all_messages_before_it(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Label."}
    again = {"role": "user", "content": "And mine?"}
    [first, second] = examples_of(read_dataset(written(tmp_path, chat(system, USER, ANSWER, again, ANSWER))))
    assert first == {"prompt": [system, USER], "completion": [ANSWER], "tools": []}
    assert second == {"prompt": [system, USER, ANSWER, again], "completion": [ANSWER], "tools": []}


def test_an_answer_of_weight_zero_is_context_only(tmp_path: Path) -> None:
    [example] = examples_of(
        read_dataset(written(tmp_path, chat(USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1})))
    )
    assert example["prompt"] == [USER, ANSWER, USER]


def test_parts_of_text_are_joined(tmp_path: Path) -> None:
    answer = parts({"type": "text", "text": "order_"}, {"type": "text", "text": "status"})
    assert examples_of(read_dataset(written(tmp_path, chat(USER, answer))))[0]["completion"] == [ANSWER]


def test_empty_fields_that_openais_client_dumps_are_ignored(tmp_path: Path) -> None:
    dumped = ChatCompletionMessage.model_validate(ANSWER).model_dump()
    empty: dict[str, Any] = {"tools": [], "functions": None, "parallel_tool_calls": False}
    [example] = examples_of(read_dataset(written(tmp_path, chat(USER, dumped | {"annotations": []}) | empty)))
    assert example == {"prompt": [USER], "completion": [ANSWER], "tools": []}


def test_the_name_of_a_speaker_is_ignored(tmp_path: Path) -> None:
    [example] = examples_of(read_dataset(written(tmp_path, chat(USER | {"name": "Ann"}, ANSWER | {"name": None}))))
    assert example == {"prompt": [USER], "completion": [ANSWER], "tools": []}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Invalid JSON"),
        ("", "empty line"),
        ("[]", "object"),
        ({"prompt": "a", "completion": "b"}, "it is a completion, not a conversation"),
        (chat(USER, ANSWER) | {"extra": 1}, "extra: Extra inputs"),
        (chat(), "no user message"),
        (chat(ANSWER), "no user message"),
        (chat(USER), "last message must be the assistant's"),
        (chat(USER, ANSWER, USER), "last message must be the assistant's"),
        (chat(USER, ANSWER | {"weight": 0}), "no assistant message to train on"),
        (chat(USER, {"role": "system", "content": "late"}, ANSWER), "system message must be the first"),
        (chat(USER, {"role": "tool", "content": "x"}, ANSWER), "messages.1: role: must be"),
        (chat(USER, ANSWER | {"content": ""}), "messages.1.content"),
        (chat(USER, ANSWER | {"content": None}), "messages.1.content"),
        (chat(USER, ANSWER | {"weight": 0.5}), "messages.1.weight"),
        (chat(USER, ANSWER | {"tool_calls": [{"id": "x"}]}), "messages.1: tool_calls: tool calls"),
        (chat(USER, ANSWER | {"function_call": {"name": "x"}}), "messages.1: function_call: tool calls"),
        (chat(USER, ANSWER | {"refusal": "no"}), "messages.1.refusal: Extra inputs"),
        (chat(USER, ANSWER | {"unknown": None}), "messages.1.unknown: Extra inputs"),
        (chat(USER | {"name": 7}, ANSWER), "messages.0.name"),
        (chat(USER, ANSWER) | {"tools": [{"type": "function"}]}, "tools: tool calls"),
        (chat(USER, ANSWER) | {"parallel_tool_calls": True}, "tools: tool calls"),
        (chat(USER, parts({"type": "image_url"})), "messages.1.content: a part is not text"),
        (chat(USER, parts({"type": "text", "text": None})), "messages.1.content: the `text` of a part must be"),
        (chat(USER, parts({"type": "text", "text": {"a": 1}})), "messages.1.content: the `text` of a part must be"),
        (chat(USER, parts({"type": "text"})), "messages.1.content: the `text` of a part must be"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_with_its_number(tmp_path: Path, line: object, reason: str) -> None:
    assert reason in problem(tmp_path, line)


def test_a_refusal_does_not_repeat_the_users_text(tmp_path: Path) -> None:
    assert "secret" not in problem(tmp_path, chat(USER | {"name": "secret"}, ANSWER | {"content": ["secret"]}))


def test_an_endless_line_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    assert "longer than" in problem(tmp_path, "x" * (3 * MAX_LINE_BYTES))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"train\.jsonl is not .*\n.*line 1: the file is empty"):
        read_dataset(written(tmp_path))


def test_only_the_first_problems_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset) as refused:
        read_dataset(written(tmp_path, *["{"] * 100))
    assert [number for number, _ in refused.value.problems] == list(range(1, MAX_PROBLEMS + 1))


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        read_dataset(path)
    except InvalidDataset as refused:
        assert refused.problems
