"""The content of one message in any vendor's form: its text, tool calls and results of tools."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.finetuning.datasets.other_formats.call_ids import CallIds

_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
_CALL_KEYS = ("toolUse", "functionCall", "function_call")
_RESULT_KEYS = ("toolResult", "functionResponse", "function_response")
_SEPARATOR = "\n"


@dataclass
class Content:
    """What a message holds; `results` are messages of the role tool."""

    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text, its parts joined as vLLM joins them."""
        return _SEPARATOR.join(self.texts)


def read_content(value: Any, ids: CallIds) -> Content:
    """Read the content of a message: a text, or a list of parts in OpenAI's, Anthropic's, Bedrock's or Gemini's form.

    Raises:
        ValueError: a part is neither text nor a tool call or result.
    """
    content = Content()
    for part in value if isinstance(value, list) else [value]:
        _read_part({"text": part} if isinstance(part, str) else part, content, ids)
    return content


def _read_part(part: Any, content: Content, ids: CallIds) -> None:
    if part is None:
        return
    if not isinstance(part, dict):
        raise ValueError("the content of a message must be text, or a list of parts")
    if part.get("thought") is True or part.get("type") in _THOUGHTS:
        return
    call = part if part.get("type") == "tool_use" else _first(part, *_CALL_KEYS)
    result = part if part.get("type") == "tool_result" else _first(part, *_RESULT_KEYS)
    if isinstance(call, dict):
        arguments = _first(call, "input", "args", "arguments")
        content.calls.append(ids.call(call.get("name"), arguments, _first(call, "id", "toolUseId")))
    elif isinstance(result, dict):
        text = result_text(_first(result, "content", "response"))
        given_id = _first(result, "tool_use_id", "toolUseId", "id")
        content.results.append(ids.result(text, result.get("name"), given_id))
    elif isinstance(part.get("text"), str):
        content.texts.append(part["text"])
    else:
        raise ValueError("a part is not text; images and audio can't be trained: leave them out")


def result_text(value: Any) -> str:
    """Return what a tool returned as text: texts as they are, other values as JSON."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if texts and len(texts) == len(parts):
        return _SEPARATOR.join(texts)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _first(document: Mapping[str, Any], *keys: str) -> Any:
    return next((document[key] for key in keys if document.get(key) is not None), None)
