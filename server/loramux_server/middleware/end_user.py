"""Whom a client says that it asks for: the one thing of a body that loramux itself looks at."""

from typing import Any

from fastapi import Request

from loramux_server.request_context import current_request


async def note_user(request: Request) -> None:
    """Note the body's user, so that a split gives them the same version every time; a dependency of vLLM's handlers.

    FastAPI has parsed the body by now, and keeps it: this costs nothing. What is wrong with it is the handler's to say.
    """
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return
    current_request.get().user = _user(body)


def _user(body: Any) -> str | None:
    """The user as OpenAI's clients name it, in either field, or Anthropic's."""
    if not isinstance(body, dict):
        return None
    metadata = body.get("metadata")
    named = (body.get("user"), body.get("safety_identifier"), isinstance(metadata, dict) and metadata.get("user_id"))
    return next((user for user in named if isinstance(user, str) and user), None)
