"""Checks the values of a JSON body by their kind, whatever the fields: numbers and text that nothing behind can hold.

Python reads more than JSON has: integers of any size, NaN, and text that has no encoding. Each of them fails somewhere
in vLLM, as a fault of the server. Ordinary bodies are only searched, by two patterns, and not parsed.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_server.errors import InvalidRequest

_INTEGERS = range(-(2**63), 2**64)
"""What 64 bits can hold."""
_SUSPICIOUS = re.compile(rb"[0-9]{19}|[eE]\+?[0-9]{3}|NaN|Infinity|\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_NAME = 100


def check_json_values(app: ASGIApp, max_values: int) -> ASGIApp:
    """Refuse JSON bodies with a value that nothing can hold, or with more than `max_values` values."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" or not _is_json(Headers(scope=scope).get("content-type", "")):
            await app(scope, receive, send)
            return
        messages = await _read(receive)
        body = b"".join(message.get("body", b"") for message in messages)
        if messages[-1]["type"] == "http.request":
            check_values(body, max_values)
            messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return messages.pop(0) if messages else await receive()

        await app(scope, replayed, send)

    return guarded


def check_values(body: bytes, max_values: int) -> None:
    """Check a body; one that is no JSON passes, because the handler says so.

    Raises:
        InvalidRequest: it has too many values, or one that nothing can hold; names the field.
    """
    if body.count(b",") >= max_values:
        raise InvalidRequest(f"The body has more than {max_values} values (setting requests.max_values).")
    if not _SUSPICIOUS.search(body) and json.detect_encoding(body) == "utf-8":
        return
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    for name, item in _walk(value):
        _check(name, item)


def _is_json(content_type: str) -> bool:
    """Whether a body of this type may be read as JSON; a missing type is read as JSON, too."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind == "application/json" or kind.endswith("+json")


async def _read(receive: Receive) -> list[Message]:
    """Return the messages up to the end of the body, or of the connection."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each value with its name, such as `messages[0].content`; names of fields are values too."""
    pending = [("", value)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, dict):
            yield from ((name or "the body", key) for key in item)
            pending.extend((f"{name}.{key}".lstrip(".")[:_MAX_NAME], part) for key, part in item.items())
        elif isinstance(item, list):
            pending.extend((f"{name}[{number}]"[:_MAX_NAME], part) for number, part in enumerate(item))
        else:
            yield name, item


def _check(name: str, item: Any) -> None:
    if isinstance(item, str) and _SURROGATE.search(item):
        raise InvalidRequest(f"{name} is not valid text: it has half of a surrogate pair.", param=name)
    if isinstance(item, float) and not math.isfinite(item):
        raise InvalidRequest(f"{name} must be a finite number.", param=name)
    if isinstance(item, int) and item not in _INTEGERS:
        raise InvalidRequest(f"{name} must be a number of at most 64 bits.", param=name)
