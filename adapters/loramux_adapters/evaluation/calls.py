"""Answers that call tools, as text: so that they are compared, stored and shown as other answers are."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.json_objects import parse_json_object

Message = dict[str, Any]
"""A message in OpenAI's form."""

ARGUMENTS_KEY = '"arguments": '
"""Follows the name of a tool in the text of its call."""
_KEYS = {"content", "tool_calls"}


class Call(NamedTuple):
    """A call: the tool's name, and its arguments; None if they are not a JSON object."""

    name: str
    arguments: dict[str, Any] | None


def answer_text(message: Message) -> str:
    """Return the text of an answer: its content, or if it has calls `{"tool_calls": [{"name", "arguments"}]}`.

    That JSON has the content too, if there is one. A content that looks like calls is written in the same form.
    """
    content, calls = content_text(message.get("content")), message.get("tool_calls") or ()
    if not calls and parse_calls(content) is None:
        return str(content)
    shown = [{"name": call["function"]["name"], "arguments": _arguments(call["function"])} for call in calls]
    return json.dumps(({"content": content} if content else {}) | {"tool_calls": shown}, ensure_ascii=False)


def answer_message(text: str) -> Message:
    """Return the assistant's message that has this `answer_text`."""
    calls = parse_calls(text)
    if calls is None:
        return {"role": "assistant", "content": text}
    content = (parse_json_object(text) or {}).get("content")
    if not calls:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content, "tool_calls": [_call(*call) for call in enumerate(calls)]}


def parse_calls(text: str) -> list[Call] | None:
    """Return the calls of an answer's text; None if it is not the text of calls."""
    found = parse_json_object(text) or {}
    calls = found.get("tool_calls")
    if not isinstance(calls, list) or not found.keys() <= _KEYS:
        return None
    parsed = [_parse_call(call) for call in calls]
    return None if None in parsed else [call for call in parsed if call]


def are_calls(answers: Sequence[str], share: float) -> bool:
    """Whether at least this share of the answers call tools."""
    return bool(answers) and sum(bool(parse_calls(answer)) for answer in answers) >= share * len(answers)


def _arguments(function: dict[str, Any]) -> Any:
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        found = parse_json_object(arguments)
        return arguments if found is None else found
    return arguments


def _parse_call(call: Any) -> Call | None:
    if not isinstance(call, dict) or call.keys() != {"name", "arguments"} or not isinstance(call["name"], str):
        return None
    arguments = call["arguments"]
    return Call(call["name"], arguments if isinstance(arguments, dict) else None)


def _call(number: int, call: Call) -> dict[str, Any]:
    """Return a call in OpenAI's form, with an id of nine characters, the only ones that all templates take."""
    arguments = json.dumps(call.arguments or {}, ensure_ascii=False)
    return {
        "id": f"call{number:05}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
