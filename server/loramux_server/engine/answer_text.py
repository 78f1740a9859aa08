"""The text of chat completions, plain and streamed, for scorers and judges."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 50_000
"""Characters of one choice that are kept."""
MAX_QUESTION = 8_000


def texts_of(body: bytes) -> list[str]:
    """Return the text of each choice; one that is only a tool call has none, and is left out."""
    try:
        return texts_of_messages([choice["message"] for choice in json.loads(body)["choices"]])
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def texts_of_messages(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the text of each message; an empty answer is one, and a tool call without text is none."""
    found = ((message.get("content") or "", message.get("tool_calls")) for message in messages)
    return [str(text)[:MAX_CHARACTERS] for text, calls in found if text or not calls]


class TextCollector:
    """Collects the text of each choice of a stream of server-sent events."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}
        self._calls: set[int] = set()
        self._lengths: dict[int, int] = {}
        self.is_complete = False
        """Whether the stream has ended as it should, with `[DONE]` and without an error."""

    def add(self, event: str | bytes) -> None:
        """Take an event, or several."""
        text = event if isinstance(event, str) else event.decode(errors="replace")
        for line in text.split("\n"):
            if line.startswith("data: [DONE]"):
                self.is_complete = True
            elif line.startswith("data: {"):
                self._add_chunk(line.removeprefix("data: "))

    def _add_chunk(self, data: str) -> None:
        try:
            chunk = json.loads(data)
            for choice in chunk.get("choices") or ():
                self._add_delta(int(choice["index"]), choice["delta"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def _add_delta(self, index: int, delta: Mapping[str, Any]) -> None:
        text, parts, length = delta.get("content"), self._parts.setdefault(index, []), self._lengths.get(index, 0)
        if delta.get("tool_calls"):
            self._calls.add(index)
        if isinstance(text, str) and length < MAX_CHARACTERS:
            parts.append(text)
            self._lengths[index] = length + len(text)

    @property
    def texts(self) -> list[str]:
        """The text of each choice; one that is only a tool call has none, and is left out."""
        joined = {index: "".join(parts)[:MAX_CHARACTERS] for index, parts in sorted(self._parts.items())}
        return [text for index, text in joined.items() if text or index not in self._calls]


def question_of(messages: Sequence[Any]) -> str:
    """Return the text of the last user's message, which judges see."""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return _text(message.get("content"))[-MAX_QUESTION:]
    return ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)
