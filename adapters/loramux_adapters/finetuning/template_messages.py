"""Messages and tools as a chat template gets them when served: what vLLM's handler makes of those of a request."""

import json
from collections.abc import Sequence
from typing import Any

from loramux_adapters.evaluation.content_text import content_text

Messages = Sequence[dict[str, Any]]
Tools = Sequence[dict[str, Any]]

_DEVELOPER = ("'developer'", '"developer"')
_TOOL_KEYS = ("name", "description", "parameters")


def template_messages(messages: Messages, *, template: str, has_content_parts: bool) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form as vLLM hands them to `template`.

    The arguments of calls are objects there, not JSON text. A template that does not mention the role `developer` gets
    such messages as system messages, and then all system messages as one.
    """
    shown = [_template_message(message, has_content_parts=has_content_parts) for message in messages]
    if any(message["role"] == "developer" for message in shown) and not _has_developer_role(template):
        return _merge_system_messages(shown)
    return shown


def template_tools(tools: Tools) -> list[dict[str, Any]] | None:
    """Return tools in OpenAI's form as vLLM hands them to a template; None without any."""
    return [{"type": "function", "function": _template_function(tool["function"])} for tool in tools] or None


def _has_developer_role(template: str) -> bool:
    return any(role in template for role in _DEVELOPER)


def _template_message(message: dict[str, Any], *, has_content_parts: bool) -> dict[str, Any]:
    role, content = message["role"], message.get("content")
    shown = {"role": role, "content": content_text(content)}
    if has_content_parts and role != "tool":
        shown["content"] = content if isinstance(content, list) else _parts(content)
    if role == "assistant" and message.get("tool_calls"):
        shown["tool_calls"] = [_template_call(call) for call in message["tool_calls"]]
    if role == "tool" and "tool_call_id" in message:
        shown["tool_call_id"] = message["tool_call_id"]
    if isinstance(message.get("name"), str):
        shown["name"] = message["name"]
    return shown


def _parts(text: str | None) -> list[dict[str, str]]:
    return [] if text is None else [{"type": "text", "text": text}]


def _template_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    called = {"arguments": _arguments(function.get("arguments")), "name": function["name"]}
    return {"id": call.get("id"), "function": called, "type": "function"}


def _arguments(arguments: Any) -> dict[str, Any]:
    """Return the arguments of a call as an object; an empty one for what is none."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = {}
    return arguments if isinstance(arguments, dict) else {}


def _template_function(function: dict[str, Any]) -> dict[str, Any]:
    strict = function.get("strict")
    return {key: function.get(key) for key in _TOOL_KEYS} | ({} if strict is None else {"strict": strict})


def _merge_system_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    system = [message for message in messages if message["role"] in {"system", "developer"}]
    others = [message for message in messages if message["role"] not in {"system", "developer"}]
    if system == [messages[0]]:
        return [messages[0] | {"role": "system"}, *others]
    texts = [content_text(message["content"]) for message in system]
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *others]
