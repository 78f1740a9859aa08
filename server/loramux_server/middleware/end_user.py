"""The fields of a request's body that loramux itself reads: end user, model, priority, and those of limits and cost."""

from typing import Any

from fastapi import Request

from loramux_server.fairness.priority import from_body
from loramux_server.request_context import current_request

_ANSWER_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


async def record_end_user(request: Request) -> None:
    """Store the end user in the request context, so that a split keeps them on one version, and the requested model.

    A dependency of vLLM's handlers. FastAPI has already parsed the body, so this costs nothing. Invalid bodies are left
    to the handler.
    """
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return
    if isinstance(body, dict):
        context = current_request.get()
        context.end_user, context.model = _user(body), _text(body.get("model"))
        context.limits_answer = any(body.get(name) is not None for name in _ANSWER_LIMITS)
        context.wants_cost, context.priority = _wants_cost(body), from_body(body)


def _wants_cost(body: dict[str, Any]) -> bool:
    """Whether the client asks for the cost: OpenRouter's `usage.include`, or the usage of a stream."""
    usage, stream = body.get("usage"), body.get("stream_options")
    return (isinstance(usage, dict) and usage.get("include") is True) or (
        isinstance(stream, dict) and stream.get("include_usage") is True
    )


def _user(body: dict[str, Any]) -> str | None:
    """Return the end user from OpenAI's fields `user` or `safety_identifier`, or Anthropic's `metadata.user_id`."""
    metadata = body.get("metadata")
    candidates = (
        body.get("user"),
        body.get("safety_identifier"),
        isinstance(metadata, dict) and metadata.get("user_id"),
    )
    return next((user for user in map(_text, candidates) if user), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
