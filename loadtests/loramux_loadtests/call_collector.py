"""The calls of tools in a response, which a stream sends in pieces."""

from typing import Any

from loramux_adapters.evaluation.calls import answer_text


class CallCollector:
    """Collects the entries of `tool_calls`: pieces of one call have its index."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, pieces: Any) -> None:
        """Add the `tool_calls` of a message or of a delta; whatever has not their form is left out."""
        for place, piece in enumerate(pieces if isinstance(pieces, list) else ()):
            function = piece.get("function") if isinstance(piece, dict) else None
            if not isinstance(function, dict):
                continue
            index = piece.get("index")
            call = self._calls.setdefault(index if isinstance(index, int) else place, {"name": "", "arguments": ""})
            for key in call:
                if isinstance(text := function.get(key), str):
                    call[key] += text

    def answer_text(self, content: str) -> str:
        """Return the text of an answer with this content and the calls, for scorers; without calls, the content."""
        if not self._calls:
            return content
        calls = [{"function": self._calls[index]} for index in sorted(self._calls)]
        return answer_text({"content": content, "tool_calls": calls})
