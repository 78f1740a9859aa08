import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.calls import Call, answer_message, answer_text, are_calls, parse_calls
from loramux_adapters.evaluation.scorers.automatic import choose_scorer
from loramux_adapters.evaluation.scorers.calls import CallScorer, tool_schemas

OSLO = {"name": "rain", "arguments": {"city": "Oslo", "days": 2}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "rain",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v))
calls = st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), values)), max_size=3)
documents = st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))


def text(*found: dict[str, Any]) -> str:
    return json.dumps({"tool_calls": list(found)})


def scores(answer: str, expected: str = text(OSLO)) -> dict[str, float]:
    return CallScorer(type="calls", tools=tool_schemas([TOOLS])).score(answer, expected)


@given(content=st.text(), found=calls)
def test_a_message_is_read_back_from_its_text(content: str, found: list[tuple[str, dict[str, Any]]]) -> None:
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in found]
    shown = answer_text({"content": content, "tool_calls": [{"function": function} for function in functions]})
    message = answer_message(shown)
    assert (message["content"] or "") == content
    assert [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", [])] == [
        a for _, a in found
    ]
    assert (parse_calls(shown) or []) == [Call(*call) for call in found]


@given(documents.map(json.dumps) | st.text())
def test_no_text_of_a_model_is_taken_for_a_call_that_the_server_did_not_parse(written: str) -> None:
    for content in (written, text({"name": "rain", "arguments": {}}), json.dumps({"tool_calls": json.loads("[]")})):
        shown = answer_text({"content": content})
        assert not parse_calls(shown)
        assert answer_message(shown)["content"] == content


def test_arguments_that_are_no_object_are_kept_and_not_valid() -> None:
    shown = answer_text({"content": None, "tool_calls": [{"function": {"name": "rain", "arguments": '{"city": '}}]})
    assert parse_calls(shown) == [Call("rain", None)]
    assert scores(shown) == {"correct": 0, "arguments": 0, "name": 1, "valid": 0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (text(OSLO), {"correct": 1, "arguments": 1, "name": 1, "valid": 1}),
        (
            text(OSLO | {"arguments": {"days": 2.0, "city": "Oslo"}}),
            {"correct": 1, "arguments": 1, "name": 1, "valid": 1},
        ),
        (
            text(OSLO | {"arguments": {"city": "Rome", "days": 2}}),
            {"correct": 0, "arguments": 0.5, "name": 1, "valid": 1},
        ),
        (text(OSLO | {"arguments": {"days": 2}}), {"correct": 0, "arguments": 0.5, "name": 1, "valid": 0}),
        (text(OSLO | {"name": "snow"}), {"correct": 0, "arguments": 0, "name": 0, "valid": 0}),
        (text(OSLO, OSLO), {"correct": 0, "arguments": 1, "name": 0, "valid": 1}),
        ("It rains in Oslo.", {"correct": 0, "arguments": 0, "name": 0, "valid": 0}),
        (answer_text({"content": text(OSLO)}), {"correct": 0, "arguments": 0, "name": 0, "valid": 0}),
    ],
)
def test_a_call_is_right_if_it_has_the_name_and_all_arguments(answer: str, expected: dict[str, float]) -> None:
    assert scores(answer) == expected


def test_where_no_call_is_expected_any_words_are_right_and_a_call_is_wrong() -> None:
    assert scores("Dry.", "It stays dry.")["correct"] == 1
    assert scores(text(OSLO), "It stays dry.") == {"correct": 0, "arguments": 0, "name": 0, "valid": 0}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        '<tool_call>{"name": "rain", "arg',
        '[TOOL_CALLS] [{"name": "rain"',
        "<|tool▁calls▁begin|>rain",
        "<function=rain>",
        '{"name": "rain", "parameters": {}}',
        answer_text({"content": text(OSLO)}),
    ],
)
def test_neither_nothing_nor_a_call_that_was_not_parsed_is_right_where_none_is_expected(answer: str) -> None:
    assert set(scores(answer, "It stays dry.").values()) == {0}
    assert set(scores(answer, answer).values()) == {1}


def test_the_expected_call_is_right_even_if_the_tool_would_refuse_it() -> None:
    call = text(OSLO | {"arguments": {"days": 2}})
    assert scores(call, call) == {"correct": 1, "arguments": 1, "name": 1, "valid": 0}


@pytest.mark.parametrize(("found", "wanted"), [(True, 1), (1, True), ([0], [False]), ({"a": 1}, {"a": True})])
def test_true_is_not_the_number_one(found: Any, wanted: Any) -> None:
    answer, expected = (text({"name": "f", "arguments": {"x": value}}) for value in (found, wanted))
    scored = CallScorer(type="calls").score(answer, expected)
    assert (scored["correct"], scored["arguments"]) == (0, 0)


def test_arguments_are_compared_however_deep_they_are() -> None:
    deep = "[" * 400 + "]" * 400
    call = text({"name": "f", "arguments": {"x": "deep"}}).replace('"deep"', deep)
    assert CallScorer(type="calls").score(call, call)["correct"] == 1


def test_several_calls_are_compared_in_any_order() -> None:
    rome = OSLO | {"arguments": {"city": "Rome"}}
    assert scores(text(rome, OSLO), text(OSLO, rome))["correct"] == 1
    assert scores(text(rome, rome), text(OSLO, rome)) == {"correct": 0, "arguments": 1 / 3, "name": 1, "valid": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "#/missing"},
        {"$ref": "#"},
        {"type": "no type"},
        {"type": 5},
        {"properties": {"city": {"type": "string", "pattern": "^(a+)+$"}}},
        {"patternProperties": {"^(a+)+$": {"type": "integer"}}, "additionalProperties": False},
        {"properties": {"city": {"type": "string", "pattern": "("}}},
    ],
)
@pytest.mark.timeout(10)
def test_schemas_of_strangers_are_neither_fetched_nor_run(schema: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "rain", "parameters": schema}}]
    call = {"name": "rain", "arguments": {"city": "a" * 40 + "!"}}
    assert CallScorer(type="calls", tools=tool_schemas([tools])).score(text(call), text(call))["valid"] == 1


def test_calls_decide_where_half_of_the_answers_are_some() -> None:
    assert choose_scorer([text(OSLO), "Dry."], [TOOLS, TOOLS]).measure == "right call"
    assert choose_scorer([text(OSLO), "Dry.", "Wet."]).measure != "right call"
    assert not are_calls([], 0.5)
