"""The text of chat completions, plain and streamed, for scorers and judges."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 50_000
"""Characters of one choice that are kept."""
MAX_QUESTION = 8_000


def texts_of(body: bytes) -> list[str]:
    """Return the text of each choice that has one; a tool call has none."""
    try:
        choices = json.loads(body)["choices"]
        contents = [choice["message"].get("content") for choice in choices]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [text[:MAX_CHARACTERS] for text in contents if isinstance(text, str) and text]


class TextCollector:
    """Collects the text of each choice of a stream of server-sent events."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}
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
                self._add_text(int(choice["index"]), choice["delta"].get("content"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def _add_text(self, index: int, text: object) -> None:
        length = self._lengths.get(index, 0)
        if isinstance(text, str) and text and length < MAX_CHARACTERS:
            self._parts.setdefault(index, []).append(text)
            self._lengths[index] = length + len(text)

    @property
    def texts(self) -> list[str]:
        """The text of each choice that has one."""
        return ["".join(parts)[:MAX_CHARACTERS] for _, parts in sorted(self._parts.items())]


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
