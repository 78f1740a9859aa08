import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from loramux_adapters.finetuning.datasets.examples import examples_of
from loramux_adapters.finetuning.datasets.lines import MAX_LINE_BYTES, MAX_PROBLEMS
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.errors import InvalidDataset

USER = {"role": "user", "content": "Where is my parcel?"}
ANSWER = {"role": "assistant", "content": "order_status"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
CALLS = {"tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}, "strict": True}}
TOOL_OF_DAY = {"type": "function", "function": {"name": "day"}}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def parts(*content: dict[str, Any]) -> dict[str, Any]:
    return ANSWER | {"content": list(content)}


def called(arguments: object) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "track", "arguments": arguments}}]}


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
    assert first == {"prompt": [system, USER], "completion": [ANSWER], "tools": [], "parallel_tool_calls": True}
    assert second == {
        "prompt": [system, USER, ANSWER, again],
        "completion": [ANSWER],
        "tools": [],
        "parallel_tool_calls": True,
    }


def test_an_answer_of_weight_zero_is_context_only(tmp_path: Path) -> None:
    [example] = examples_of(
        read_dataset(written(tmp_path, chat(USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1})))
    )
    assert example["prompt"] == [USER, ANSWER, USER]


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_parts_of_an_answer_are_joined_as_vllm_joins_them_and_those_of_a_prompt_stay_parts(
    tmp_path: Path, kind: str
) -> None:
    texts = [{"type": kind, "text": "order"}, {"type": kind, "text": "status"}]
    asked = [USER | {"content": texts}, USER | {"content": texts[:1]}]
    [example] = examples_of(read_dataset(written(tmp_path, chat(*asked, parts(*texts)))))
    assert example["completion"] == [ANSWER | {"content": "order\nstatus"}]
    kept = [{"type": "text", "text": "order"}, {"type": "text", "text": "status"}]
    assert example["prompt"] == [USER | {"content": kept}, USER | {"content": "order"}]


def test_a_served_answer_is_taken_back_as_it_was_dumped(tmp_path: Path) -> None:
    dumped = ChatCompletionMessage.model_validate(ANSWER).model_dump()
    of_vllm: dict[str, Any] = {
        "reasoning": None,
        "reasoning_content": None,
        "tool_calls": [],
        "stop_reason": None,
        "annotations": [],
    }
    empty: dict[str, Any] = {"tools": [], "functions": None, "parallel_tool_calls": None}
    [conversation] = read_dataset(written(tmp_path, chat(USER, dumped | of_vllm) | empty))
    assert examples_of([conversation]) == [
        {"prompt": [USER], "completion": [ANSWER], "tools": [], "parallel_tool_calls": True}
    ]
    assert conversation.ignored_keys == {"messages.annotations"}


def test_a_served_answer_that_calls_a_tool_is_taken_back_as_it_was_dumped(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    dumped = ChatCompletionMessage.model_validate(answer).model_dump()
    dumped["tool_calls"][0]["index"] = 0
    [conversation] = read_dataset(written(tmp_path, chat(USER, dumped) | {"tools": [TOOL]}))
    [example] = examples_of([conversation])
    assert (example["prompt"], example["completion"], example["tools"]) == ([USER], [answer], [TOOL])
    assert conversation.ignored_keys == {"messages.tool_calls.index"}


def test_results_of_tools_and_developer_messages_keep_their_roles(tmp_path: Path) -> None:
    developer = {"role": "developer", "content": "Be brief."}
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    line = chat(developer, USER, calls, result, ANSWER) | {"tools": [TOOL], "parallel_tool_calls": False}
    [first, second] = examples_of(read_dataset(written(tmp_path, line)))
    request = {"tools": [TOOL], "parallel_tool_calls": False}
    assert first == {"prompt": [developer, USER], "completion": [calls]} | request
    assert second == {"prompt": [developer, USER, calls, result], "completion": [ANSWER]} | request


@pytest.mark.parametrize("arguments", [None, "", "{}", {}])
def test_a_call_without_arguments_has_an_empty_object_of_them(tmp_path: Path, arguments: object) -> None:
    call = CALL | {"function": {"name": "track", "arguments": arguments}}
    answer = {"role": "assistant", "tool_calls": [call]}
    [example] = examples_of(read_dataset(written(tmp_path, chat(USER, answer))))
    assert example["completion"][0]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_null_has_a_meaning_in_the_schema_of_a_tool_only(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"day": {"enum": ["today", None], "default": None}}}
    tool = {"type": None, "function": {"name": "track", "description": None, "parameters": schema, "strict": None}}
    [example] = examples_of(read_dataset(written(tmp_path, chat(USER, ANSWER) | {"tools": [tool]})))
    assert example["tools"] == [{"type": "function", "function": {"name": "track", "parameters": schema}}]


def test_several_system_messages_and_empty_ones_stay_where_they_are(tmp_path: Path) -> None:
    first, late = {"role": "system", "content": None}, {"role": "system", "content": "Late."}
    [example] = examples_of(read_dataset(written(tmp_path, chat(first, USER, late, ANSWER))))
    assert example["prompt"] == [{"role": "system", "content": ""}, USER, late]


def test_the_name_of_a_speaker_is_kept_for_the_template(tmp_path: Path) -> None:
    [example] = examples_of(read_dataset(written(tmp_path, chat(USER | {"name": "Ann"}, ANSWER | {"name": None}))))
    assert (example["prompt"], example["completion"]) == ([USER | {"name": "Ann"}], [ANSWER])


def test_unknown_keys_are_ignored_and_named(tmp_path: Path) -> None:
    line = {"metadata": {"a": 1}, "id": 7, "nothing": None, "a`\n\u202e": 1}
    part = {"type": "text", "text": "Hi", "cache_control": {}}
    message = USER | {"id": "m", "content": [part]}
    [conversation] = read_dataset(written(tmp_path, chat(message, ANSWER) | line))
    assert conversation.ignored_keys == {"metadata", "id", "a???", "messages.id", "messages.content.cache_control"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_blank_lines_and_line_ends_of_any_kind_are_read(tmp_path: Path, mark: str, end: str) -> None:
    line = json.dumps(chat(USER, ANSWER))
    path = tmp_path / "train.json"
    path.write_bytes(end.join([mark + "", line, "  ", "", mark + line, "", ""]).encode())
    assert [conversation.line for conversation in read_dataset(path)] == [2, 5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Invalid JSON: EOF while parsing an object"),
        ("[]", "a JSON list; expected an object"),
        ("NaN", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        (chat(), "no user message"),
        (chat(ANSWER), "no user message"),
        (chat(USER), "last message must be the assistant's"),
        (chat(USER, ANSWER, USER), "last message must be the assistant's"),
        (chat(USER, ANSWER | {"weight": 0}), "no assistant message to train on"),
        (chat(USER, {"role": "critic", "content": "x"}, ANSWER), "messages.1.role: Input should be 'system', 'dev"),
        (chat(USER, ANSWER | {"content": ""}), "messages.1: content: the assistant's message is empty"),
        (chat(USER, ANSWER | {"content": None}), "messages.1: content: the assistant's message is empty"),
        (chat(USER | {"content": []}, ANSWER), "messages.0: content: the user's message is empty"),
        (chat(USER, ANSWER | {"weight": 0.5}), "messages.1.weight"),
        (chat(USER | {"weight": 1}, ANSWER), "messages.0: weight: allowed only"),
        (chat(USER, ANSWER | {"refusal": "no"}), "messages.1: refusal: write its text as the content"),
        (chat(USER, ANSWER | {"audio": {"id": "a"}}), "messages.1: audio: only text"),
        (chat(USER | {"name": 7}, ANSWER), "messages.0.name"),
        (chat("x", ANSWER), "messages.0: expected an object"),
        ({"messages": "x"}, "messages: expected a list"),
        ({}, 'there are no messages; expected {"messages": [...]}'),
        (chat(USER, ANSWER) | {"tools": 7}, "tools: expected a list"),
        (chat(USER, parts({"type": "image_url"})), "messages.1.content: a part is not text; expected the types"),
        (
            chat(USER | {"content": {"type": "text", "text": "Hi"}}, ANSWER),
            "messages.0.content: expected a text, or a list",
        ),
        (chat(USER, parts({"type": []})), "messages.1.content: a part is not text"),
        (chat(USER, parts({"type": "text", "text": None})), "messages.1.content: the `text` of a part must be"),
        (chat(USER, parts({"type": "text", "text": {"a": 1}})), "messages.1.content: the `text` of a part must be"),
        (chat(USER, ANSWER) | {"tools": [{"type": "function"}]}, "tools.0.function: Field required"),
        (chat(USER, ANSWER) | {"tools": [{"type": "custom", "function": {"name": "a"}}]}, "tools.0.type"),
        (chat(USER, ANSWER) | {"tools": [{"function": {"name": ""}}]}, "tools.0.function.name"),
        (chat(USER, ANSWER) | {"tools": [TOOL_OF_DAY, TOOL_OF_DAY]}, "tools: two tools have the same name"),
        (chat(USER, ANSWER) | {"parallel_tool_calls": "perhaps"}, "parallel_tool_calls"),
        (chat(USER | {"tool_calls": []} | CALLS, ANSWER), "messages.0: tool_calls: allowed only"),
        (chat(USER, ANSWER | {"tool_calls": [{"id": "x"}]}), "messages.1.tool_calls.0.function: Field required"),
        (chat(USER, called("[]")), "messages.1.tool_calls.0.function.arguments: expected the JSON text of an object"),
        (chat(USER, called("{")), "arguments: expected the JSON text of an object: EOF"),
        (chat(USER, called('{"a": NaN}')), "arguments: expected the JSON text of an object"),
        (chat(USER, called(7)), "arguments: expected the JSON text of an object"),
        (chat(USER, {"role": "tool", "content": "x"}, ANSWER), "messages.1: tool_call_id: expected"),
        (chat(USER, {"role": "tool", "tool_call_id": "z", "content": "x"}, ANSWER), "messages.1.tool_call_id: no tool"),
        (chat(USER | {"tool_call_id": "call_1"}, ANSWER), "messages.0: tool_call_id: expected"),
        (chat(USER, {"role": "tool", "tool_call_id": "call_1"}, called("{}")), "messages.1.tool_call_id: no tool call"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER]}, "it is a preference pair, for the method dpo"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_with_its_number(tmp_path: Path, line: object, reason: str) -> None:
    assert reason in problem(tmp_path, line)


def test_a_refusal_does_not_repeat_the_users_text(tmp_path: Path) -> None:
    assert "secret" not in problem(
        tmp_path, chat(USER | {"name": "secret"}, parts({"type": "secret", "text": "secret"}))
    )


def test_an_endless_line_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    assert "longer than" in problem(tmp_path, "x" * (3 * MAX_LINE_BYTES))


def test_an_endless_blank_line_hides_nothing_after_it(tmp_path: Path) -> None:
    assert "longer than" in problem(tmp_path, " " * (3 * MAX_LINE_BYTES) + "\n" + json.dumps(chat(USER, ANSWER)))


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
