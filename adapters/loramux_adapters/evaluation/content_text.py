"""The text of a message's content, which may be a list of parts."""

from collections.abc import Sequence
from typing import Any

PART_SEPARATOR = "\n"
"""What vLLM writes between the parts of a message for a template that reads text."""
_ROLES_WITH_PARTS = ("system", "developer", "user")
"""The parts of other roles are joined: an answer is served as one text, and vLLM joins the results of tools."""


def read_content(texts: Sequence[str], role: Any) -> str | list[dict[str, Any]]:
    """Return the content that the texts of the parts of a message make: parts in OpenAI's form if there are several."""
    if len(texts) > 1 and any(texts) and role in _ROLES_WITH_PARTS:
        return [{"type": "text", "text": text} for text in texts]
    return PART_SEPARATOR.join(texts)


def content_text(content: str | list[dict[str, Any]] | None) -> str:
    """Return the text of the `content` of a message in OpenAI's form, of its parts that are text; "" for None."""
    if isinstance(content, list):
        return PART_SEPARATOR.join(str(part["text"]) for part in content if "text" in part)
    return content or ""
