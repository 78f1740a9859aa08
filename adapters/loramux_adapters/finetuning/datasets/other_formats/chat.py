"""Chats of other vendors and libraries as messages and tools in OpenAI's form."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loramux_adapters.finetuning.datasets.messages import ROLES
from loramux_adapters.finetuning.datasets.other_formats.call_ids import CallIds
from loramux_adapters.finetuning.datasets.other_formats.content import read_content, result_text

CALLS_ROLE = "function_call"
"""A message whose content is the JSON text of a call (LLaMA-Factory)."""
ROLE_NAMES = {role: role for role in ROLES} | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    "tool_call": CALLS_ROLE,
    CALLS_ROLE: CALLS_ROLE,
}
"""OpenAI's name of a role, by other names in lower case."""
_CONTENT_KEYS = ("content", "value", "parts", "text", "message")
_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
_GEMINI_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}


def to_messages(messages: Any) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form.

    Raises:
        ValueError: it is not a list of messages, or a message can't be converted.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("expected a list of messages, each an object")
    ids = CallIds()
    return [converted for message in messages for converted in _convert_message(message, ids)]


def role_of(message: Mapping[str, Any]) -> str | None:
    """Return OpenAI's name of a message's role, or CALLS_ROLE; None if it has none that is known."""
    role = message.get("role", message.get("from"))
    return ROLE_NAMES.get(role.lower()) if isinstance(role, str) else None


def to_tools(tools: Any) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form: nested, flat (Responses API, Anthropic), Gemini's, or JSON text of one of these.

    Raises:
        ValueError: they have another form.
    """
    if isinstance(tools, str):
        tools = _parse_json(tools or "[]", "tools")
    found = [function for tool in (tools if isinstance(tools, list) else [tools]) for function in _functions(tool)]
    return [{"type": "function", "function": function} for function in found]


def read_tools(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `tools` of a line in OpenAI's form, and its `parallel_tool_calls`; without what it doesn't have.

    Raises:
        ValueError: the tools have another form.
    """
    tools = to_tools(next((document[key] for key in ("tools", "functions") if document.get(key)), []))
    parallel = document.get("parallel_tool_calls")
    return ({"tools": tools} if tools else {}) | ({} if parallel is None else {"parallel_tool_calls": parallel})


def _convert_message(message: Mapping[str, Any], ids: CallIds) -> Iterator[dict[str, Any]]:
    role = role_of(message)
    value = next((message[key] for key in _CONTENT_KEYS if message.get(key) is not None), None)
    if role is None:
        raise ValueError("a message has an unknown role; expected such as system, user, assistant and tool")
    if role == CALLS_ROLE:
        yield {"role": "assistant", "content": None, "tool_calls": _calls_in_text(value, ids)}
        return
    if role == "tool":
        yield {**ids.result(result_text(value), message.get("name"), message.get("tool_call_id"))}
        return
    content = read_content(value, ids)
    yield from (dict(result) for result in content.results)
    calls = [*content.calls, *_calls_of(message, ids)]
    if content.texts or calls or not content.results:
        optional = ("name", "weight") if role == "assistant" else ("name",)
        kept = {key: message[key] for key in optional if message.get(key) is not None}
        yield {"role": role, "content": content.text} | ({"tool_calls": calls} if calls else {}) | kept


def _calls_of(message: Mapping[str, Any], ids: CallIds) -> Iterator[dict[str, Any]]:
    """Yield the calls of a message: OpenAI's, with or without ids, or the one of its older form."""
    for call in message.get("tool_calls") or []:
        if not isinstance(call, dict):
            raise ValueError("tool_calls: expected a list of objects")
        yield _call(call.get("function", call), ids, call.get("id"))
    if function := message.get("function_call"):
        yield _call(function, ids)


def _calls_in_text(value: Any, ids: CallIds) -> list[dict[str, Any]]:
    calls = _parse_json(value, "a tool call") if isinstance(value, str) else value
    return [_call(call, ids) for call in (calls if isinstance(calls, list) else [calls])]


def _parse_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what}: expected JSON: {error.msg}") from error


def _call(function: Any, ids: CallIds, given_id: Any = None) -> dict[str, Any]:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call needs the name of a function and its arguments")
    return ids.call(function["name"], function.get("arguments"), given_id)


def _functions(tool: Any) -> Iterator[dict[str, Any]]:
    """Yield the functions of one entry of `tools`."""
    if not isinstance(tool, dict):
        raise ValueError("tools: expected a list of objects")
    declared = tool.get("functionDeclarations", tool.get("function_declarations"))
    for function in declared if isinstance(declared, list) else [tool.get("function", tool.get("toolSpec", tool))]:
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("tools: a function has no name")
        kept = {key: function[key] for key in ("name", "description", "strict") if function.get(key) is not None}
        schema = next((function[key] for key in _SCHEMA_KEYS if function.get(key)), None)
        schema = schema.get("json", schema) if isinstance(schema, dict) else schema
        yield kept if schema is None else kept | {"parameters": _lower_types(schema)}


def _lower_types(schema: Any) -> Any:
    """Write Gemini's names of types in a JSON schema as JSON schema has them: `STRING` as `string`."""
    if isinstance(schema, list):
        return [_lower_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    lowered = {key: _lower_types(value) for key, value in schema.items()}
    kind = lowered.get("type")
    return lowered | {"type": kind.lower()} if isinstance(kind, str) and kind in _GEMINI_TYPES else lowered
