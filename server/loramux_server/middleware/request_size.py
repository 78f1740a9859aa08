"""How many answers one request asks for: its prompts times its choices."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from loramux_server.errors import InvalidRequest


def limit_sequences(
    dependency: Callable[[Request], Awaitable[None]], max_sequences: int
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency of vLLM's handlers that also refuses requests for more than `max_sequences` answers."""

    async def limited(request: Request) -> None:
        await dependency(request)
        try:
            body = await request.json()  # parsed before
        except (ValueError, RecursionError):
            return
        if isinstance(body, dict):
            check_sequences(body, max_sequences)

    return limited


def check_sequences(body: dict[str, Any], max_sequences: int) -> None:
    """Check the fields `prompt` and `n` of a request.

    Raises:
        InvalidRequest: it asks for too many answers, or not for a whole number of them.
    """
    prompts, choices = _prompts(body.get("prompt")), _count(body.get("n"))
    if prompts * choices > max_sequences:
        raise InvalidRequest(
            f"{prompts} prompts with {choices} choices each are more than {max_sequences} answers, the limit of a"
            " request to this server (setting requests.max_sequences): send several requests.",
            param="prompt" if prompts > 1 else "n",
        )


def _prompts(prompt: object) -> int:
    """Return the number of prompts: a list of integers is one prompt, of tokens."""
    is_batch = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if is_batch and isinstance(prompt, list) else 1


def _count(number: object) -> int:
    if number is None:
        return 1
    if not isinstance(number, int):  # vLLM would take "2" and 2.0 for numbers
        raise InvalidRequest("n: expected a whole number.", param="n")
    return max(1, number)
