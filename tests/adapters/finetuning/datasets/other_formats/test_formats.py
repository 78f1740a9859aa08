"""Each known format: the reader refuses it by its name, and the conversion makes the same conversation of all."""

import json
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.finetuning.datasets.examples import examples_of
from loramux_adapters.finetuning.datasets.other_formats.converter import convert_file
from loramux_adapters.finetuning.datasets.preferences import read_preferences
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.errors import InvalidDataset

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 6 times 7?"}
ANSWER = {"role": "assistant", "content": "42"}
CHAT = [SYSTEM, USER, ANSWER]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
ARGUMENTS = {"city": "Oslo"}
CALLING = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": "Rain."},
    {"role": "assistant", "content": "It rains."},
]
QUESTION = USER["content"]
SHAREGPT = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": QUESTION}]


def converted(folder: Path, *lines: Any) -> Path:
    source, target = folder / "data.json", folder / "converted.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    convert_file(source, target)
    return target


def refusal(folder: Path, line: Any) -> str:
    path = folder / "data.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(line))
    with pytest.raises(InvalidDataset) as refused:
        read_dataset(path)
    [(number, reason)] = refused.value.problems
    assert number == 1
    return reason


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a pair of `prompt` and `completion`", {"prompt": f" {QUESTION}\n", "completion": " 42"}),
        ("a pair of `prompt` and `completion`", {"prompt": [USER], "completion": [ANSWER]}),
        ("a pair of `question` and `answer`", {"question": QUESTION, "answer": "42"}),
        ("a pair of `input` and `ideal`", {"input": [USER], "ideal": "42"}),
        ("a pair of `input` and `output`", {"input": QUESTION, "output": "42"}),
        ("a pair of `input_text` and `output_text`", {"input_text": QUESTION, "output_text": "42"}),
        ("a pair of `text` and `label`", {"text": QUESTION, "label": "42"}),
        ("Alpaca's format", {"instruction": QUESTION, "input": "", "output": "42"}),
        ("Alpaca's format", {"instruction": QUESTION, "context": None, "response": "42"}),
    ],
)
def test_questions_with_answers(tmp_path: Path, name: str, line: Any) -> None:
    assert f"it is {name}, not OpenAI's format: convert the file with `loramux data" in refusal(tmp_path, line)
    assert examples_of(read_dataset(converted(tmp_path, line))) == [
        {"prompt": [USER], "completion": [ANSWER], "tools": [], "parallel_tool_calls": True}
    ]


def test_an_alpaca_line_keeps_its_input_system_prompt_and_history(tmp_path: Path) -> None:
    line = {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Ho"]]}
    [first, second] = examples_of(read_dataset(converted(tmp_path, line)))
    assert first["completion"] == [{"role": "assistant", "content": "Ho"}]
    assert second["prompt"][0] == SYSTEM
    assert second["prompt"][3] == {"role": "user", "content": "Add.\n1, 2"}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ShareGPT's format", {"conversations": [*SHAREGPT, {"from": "gpt", "value": "42"}]}),
        ("ShareGPT's format", {"system": "Be brief.", "conversations": [SHAREGPT[1], {"from": "gpt", "value": "42"}]}),
        ("a chat whose roles have other names", {"messages": [*SHAREGPT, {"from": "gpt", "value": "42"}]}),
        (
            "a chat whose roles have other names (Cohere's",
            {
                "messages": [
                    {"role": "System", "content": "Be brief."},
                    {"role": "User", "content": QUESTION},
                    {"role": "Chatbot", "content": "42"},
                ]
            },
        ),
        (
            "Gemini's format",
            {
                "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
                "contents": [
                    {"role": "user", "parts": [{"text": QUESTION}]},
                    {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "42"}]},
                ],
            },
        ),
        ("Anthropic's or Bedrock's format", {"system": "Be brief.", "messages": [USER, ANSWER]}),
        (
            "Anthropic's or Bedrock's format",
            {
                "schemaVersion": "bedrock-conversation-2024",
                "system": [{"text": "Be brief."}],
                "messages": [USER | {"content": [{"text": QUESTION}]}, ANSWER | {"content": [{"text": "42"}]}],
            },
        ),
    ],
)
def test_chats(tmp_path: Path, name: str, line: Any) -> None:
    assert f"it is {name}" in refusal(tmp_path, line)
    [example] = examples_of(read_dataset(converted(tmp_path, line)))
    assert [*example["prompt"], *example["completion"]] == CHAT


FLAT = {"name": "weather", "parameters": SCHEMA}
CALL = {"name": "weather", "arguments": json.dumps(ARGUMENTS)}
OSLO, RAIN, END = CALLING[0], CALLING[2], CALLING[3]
WITHOUT_ID = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "ShareGPT's format",
            {
                "tools": json.dumps([FLAT]),
                "conversations": [
                    {"from": "human", "value": "Weather in Oslo?"},
                    {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
                    {"from": "observation", "value": "Rain."},
                    {"from": "gpt", "value": "It rains."},
                ],
            },
        ),
        (
            "OpenAI's older form of tool calls",
            {
                "functions": [FLAT],
                "messages": [
                    OSLO,
                    {"role": "assistant", "content": None, "function_call": CALL},
                    {"role": "function", "name": "weather", "content": "Rain."},
                    END,
                ],
            },
        ),
        (
            "a chat with tool calls that have no `id`",
            {
                "tools": TOOLS,
                "messages": [
                    OSLO,
                    {"role": "assistant", "tool_calls": [WITHOUT_ID]},
                    {"role": "tool", "name": "weather", "content": "Rain."},
                    END,
                ],
            },
        ),
        ("a chat with tools in another form", {"tools": [{"type": "function"} | FLAT], "messages": CALLING}),
        (
            "Gemini's format",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {
                                "name": "weather",
                                "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}},
                            }
                        ]
                    }
                ],
                "contents": [
                    {"role": "user", "parts": [{"text": "Weather in Oslo?"}]},
                    {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": ARGUMENTS}}]},
                    {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": "Rain."}}]},
                    {"role": "model", "parts": [{"text": "It rains."}]},
                ],
            },
        ),
        (
            "Anthropic's or Bedrock's format",
            {
                "tools": [{"name": "weather", "input_schema": SCHEMA}],
                "messages": [
                    OSLO,
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "call00001", "name": "weather", "input": ARGUMENTS}],
                    },
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "call00001", "content": "Rain."}],
                    },
                    END,
                ],
            },
        ),
    ],
)
def test_chats_with_tools(tmp_path: Path, name: str, line: Any) -> None:
    assert f"it is {name}" in refusal(tmp_path, line)
    [call, answer] = examples_of(read_dataset(converted(tmp_path, line)))
    assert [*answer["prompt"], *answer["completion"]] == CALLING
    assert (call["prompt"], call["completion"], call["tools"]) == (CALLING[:1], CALLING[1:2], TOOLS)


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": QUESTION, "chosen": "42", "rejected": "41"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": ANSWER | {"content": "41"}},
        {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "41"}]},
        {"instruction": QUESTION, "input": "", "chosen": "42", "rejected": "41"},
        {
            "prompt": QUESTION,
            "messages": [USER, ANSWER],
            "chosen": [USER, ANSWER],
            "rejected": [USER, ANSWER | {"content": "41"}],
        },
        {"prompt": f"{QUESTION}\n", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "41"}]},
        {"input": QUESTION, "chosen": "42", "rejected": "41"},
        {
            "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: 42",
            "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: 41",
        },
        {
            "conversations": [{"from": "human", "value": QUESTION}],
            "chosen": {"from": "gpt", "value": "42"},
            "rejected": {"from": "gpt", "value": "41"},
        },
    ],
)
def test_ranked_answers(tmp_path: Path, line: Any) -> None:
    assert "it is a pair of `chosen` and `rejected`" in refusal(tmp_path, line)
    [pair] = read_preferences(converted(tmp_path, line))
    assert (pair.prompt, pair.preferred, pair.rejected["content"]) == ([USER], ANSWER, "41")


@pytest.mark.parametrize(
    "line",
    [
        {"system": "Count.", "input": QUESTION, "chosen": "42", "rejected": "41"},
        {"system": "Count.", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "41"}]},
    ],
)
def test_ranked_answers_keep_the_system_message_of_their_line(tmp_path: Path, line: Any) -> None:
    [pair] = read_preferences(converted(tmp_path, line))
    assert pair.prompt == [{"role": "system", "content": "Count."}, USER]


@pytest.mark.parametrize(
    ("name", "way_out", "line"),
    [
        ("plain `text` without questions", "write `messages` with a question", {"text": "Once upon a time"}),
        ("answers with a Boolean `label`", "with a bad one", {"prompt": "a", "completion": "b", "label": False}),
    ],
)
def test_what_cant_be_converted_is_named_with_its_way_out(tmp_path: Path, name: str, way_out: str, line: Any) -> None:
    reason = refusal(tmp_path, line)
    assert f"it is {name}" in reason
    assert way_out in reason
    with pytest.raises(InvalidDataset, match=way_out):
        converted(tmp_path, line)


def test_results_of_tools_belong_to_the_oldest_open_call_of_their_function(tmp_path: Path) -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("a", "b", "a")]
    results = [{"role": "tool", "name": name, "content": name} for name in ("b", "a", "a")]
    line = {"messages": [USER, {"role": "assistant", "tool_calls": calls}, *results, ANSWER]}
    [_, example] = examples_of(read_dataset(converted(tmp_path, line)))
    assert [message["tool_call_id"] for message in example["prompt"][2:]] == ["call00002", "call00001", "call00003"]


@pytest.mark.parametrize("tools", [{"tools": [TOOLS[0]["function"]]}, {"functions": [TOOLS[0]["function"]]}])
@pytest.mark.parametrize("is_parallel", [False, True])
def test_whether_calls_may_be_parallel_is_kept(tmp_path: Path, tools: dict[str, Any], is_parallel: bool) -> None:
    settings = tools | {"parallel_tool_calls": is_parallel}
    [conversation] = read_dataset(converted(tmp_path, {"messages": [USER, ANSWER]} | settings))
    assert conversation.parallel_tool_calls is is_parallel
    assert conversation.chat_tools == TOOLS


def test_whether_calls_of_ranked_answers_may_be_parallel_is_kept(tmp_path: Path) -> None:
    settings = {"tools": TOOLS, "parallel_tool_calls": False}
    ranked = {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER | {"content": "41"}]} | settings
    [pair] = read_preferences(converted(tmp_path, ranked))
    assert not pair.input.parallel_tool_calls
    assert pair.tools == TOOLS
