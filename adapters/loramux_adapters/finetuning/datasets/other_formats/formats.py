"""The formats of training data that are recognized: their names, and what converts a line of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loramux_adapters.finetuning.datasets.lines import CONVERT
from loramux_adapters.finetuning.datasets.other_formats.chat import read_tools, role_of, to_messages
from loramux_adapters.finetuning.datasets.other_formats.pairs import (
    ANSWER_KEYS,
    CONTEXT_KEYS,
    QUESTION_KEYS,
    SYSTEM_KEYS,
    answer_key,
    question_key,
    to_conversation,
)
from loramux_adapters.finetuning.datasets.other_formats.ranked import CHOSEN, REJECTED, to_preference

_WRITE_MESSAGES = "write `messages` with a question and its answer"
_PAIR_THEM = "write the good answers as `messages`, or each good answer with a bad one as `chosen` and `rejected`"
Document = Mapping[str, Any]
Convert = Callable[[Document], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """A format of lines; `convert` returns a line in OpenAI's form or raises ValueError; None if that is impossible."""

    name: str
    convert: Convert | None
    way_out: str = CONVERT
    """What the user can do with a file of this format."""


def find_format(document: Document) -> Format | None:
    """Return the format of a line without null values; None for OpenAI's, and for lines of no known format."""
    name = next((name for name, matches in _CHATS if matches(document)), None)
    if CHOSEN in document and REJECTED in document:
        return Format("a pair of `chosen` and `rejected` (TRL's preference format)", to_preference)
    if name is not None:
        return Format(name, _convert_chat)
    if "messages" in document or "preferred_output" in document:
        return None
    if isinstance(document.get("label"), bool):
        return Format("answers with a Boolean `label` (TRL's KTO format)", None, _PAIR_THEM)
    question, answer = question_key(document), answer_key(document)
    if question and answer:
        name = "Alpaca's format" if question == "instruction" else f"a pair of `{question}` and `{answer}`"
        return Format(name, to_conversation)
    return Format("plain `text` without questions and answers", None, _WRITE_MESSAGES) if "text" in document else None


def _convert_chat(document: Document) -> dict[str, Any]:
    key = next(key for key in ("messages", "conversations", "contents") if key in document)
    system = next((document[key] for key in _SYSTEM_KEYS if document.get(key)), None)
    if isinstance(system, dict):  # Gemini's: {"role": ..., "parts": [...]}
        system = system.get("parts", system)
    first = to_messages([{"role": "system", "content": system}]) if system else []
    messages = [*first, *to_messages(document[key])]
    return {"messages": messages} | read_tools(document)


_SYSTEM_KEYS = ("system", "systemInstruction", "system_instruction")
READ_KEYS = {
    *("messages", "conversations", "contents", "tools", "functions", "parallel_tool_calls", "history"),
    *(CHOSEN, REJECTED, "label", *QUESTION_KEYS, *ANSWER_KEYS, *CONTEXT_KEYS, *SYSTEM_KEYS, *_SYSTEM_KEYS),
}
"""Keys of lines that a conversion reads; it drops others."""
_TOOL_KEYS = {"name", "functionDeclarations", "function_declarations", "toolSpec"}


def _messages(document: Document) -> list[Mapping[str, Any]]:
    messages = document.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def _has_other_roles(document: Document) -> bool:
    return any(role_of(message) not in (None, message.get("role")) for message in _messages(document))


def _has_untyped_parts(document: Document) -> bool:
    parts = [part for message in _messages(document) for part in _list(message.get("content"))]
    types = [part.get("type") for part in parts if isinstance(part, dict)]
    return any(kind in (None, "tool_use", "tool_result") for kind in types)


def _has_older_calls(document: Document) -> bool:
    """Whether functions are called as OpenAI's API had it before tools."""
    roles = any(message.get("role") == "function" or message.get("function_call") for message in _messages(document))
    return roles or bool(_messages(document) and document.get("functions"))


def _has_calls_without_ids(document: Document) -> bool:
    calls = [call for message in _messages(document) for call in _list(message.get("tool_calls"))]
    return any(isinstance(call, dict) and call.get("id") is None and "function" in call for call in calls)


def _has_flat_tools(document: Document) -> bool:
    tools = document.get("tools")
    flat = any(isinstance(tool, dict) and not _TOOL_KEYS.isdisjoint(tool) for tool in _list(tools))
    return bool(_messages(document)) and (flat or isinstance(tools, (str, dict)))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_CHATS: tuple[tuple[str, Callable[[Document], bool]], ...] = (
    ("ShareGPT's format (`conversations`)", lambda line: isinstance(line.get("conversations"), list)),
    ("Gemini's format (`contents`)", lambda line: isinstance(line.get("contents"), list)),
    ("OpenAI's older form of tool calls (`function_call`)", _has_older_calls),
    ("a chat whose roles have other names (Cohere's `Chatbot`, ShareGPT's `gpt`)", _has_other_roles),
    (
        "Anthropic's or Bedrock's format (`system` next to `messages`)",
        lambda line: {"messages", "system"} <= line.keys(),
    ),
    ("Anthropic's or Bedrock's format (parts of messages)", _has_untyped_parts),
    ("a chat with tool calls that have no `id` (TRL's and transformers' form)", _has_calls_without_ids),
    ("a chat with tools in another form (flat, as in the Responses API, or as text)", _has_flat_tools),
)
"""Chats that differ from OpenAI's, by what shows it; the first that matches names the format."""
