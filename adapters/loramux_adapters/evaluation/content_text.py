"""The text of a message's content, which may be a list of parts."""

from typing import Any

PART_SEPARATOR = "\n"
"""What vLLM writes between the parts of a message for a template that reads text."""


def content_text(content: str | list[dict[str, Any]] | None) -> str:
    """Return the text of the `content` of a message in OpenAI's form, of its parts that are text; "" for None."""
    if isinstance(content, list):
        return PART_SEPARATOR.join(str(part["text"]) for part in content if "text" in part)
    return content or ""
