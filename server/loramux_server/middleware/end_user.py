"""The end user in a request's body, the only field that loramux itself reads."""

from typing import Any

from fastapi import Request

from loramux_server.request_context import current_request


async def record_end_user(request: Request) -> None:
    """Store the end user in the request context, so that a split keeps them on one version.

    A dependency of vLLM's handlers. FastAPI has already parsed the body, so this costs nothing. Invalid bodies are left
    to the handler.
    """
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return
    current_request.get().end_user = _user(body)


def _user(body: Any) -> str | None:
    """Return the end user from OpenAI's fields `user` or `safety_identifier`, or Anthropic's `metadata.user_id`."""
    if not isinstance(body, dict):
        return None
    metadata = body.get("metadata")
    candidates = (
        body.get("user"),
        body.get("safety_identifier"),
        isinstance(metadata, dict) and metadata.get("user_id"),
    )
    return next((user for user in candidates if isinstance(user, str) and user), None)
