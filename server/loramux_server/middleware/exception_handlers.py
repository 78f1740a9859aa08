"""What handlers raise, answered by FastAPI in our words."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from loramux_adapters.errors import AdapterError
from loramux_server.errors import InvalidRequest, LoramuxError, from_adapter_error, response

# A location also names the branch of a union that was tried, such as `list[int]` or `ToolMessage`: no field of a body.
_FIELD = re.compile(r"[a-z0-9_]+")
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "set", "tuple"})


def add_error_handlers(app: FastAPI) -> None:
    """Let `app` answer our errors, the adapters', and bodies that do not fit; call it after vLLM added its own."""

    async def answer(_: Request, error: Exception) -> Response:
        return response(_as_loramux(error))

    for kind in (LoramuxError, AdapterError, RequestValidationError, TypeError):
        app.add_exception_handler(kind, answer)


def _as_loramux(error: Exception) -> LoramuxError:
    if isinstance(error, AdapterError):
        return from_adapter_error(error)
    if isinstance(error, RequestValidationError):
        return invalid_body(error.errors())
    if isinstance(error, TypeError):  # what vLLM's validators raise when they walk over a field of another type
        return InvalidRequest(f"A field of the body has a wrong type: {error}.")
    if isinstance(error, LoramuxError):
        return error
    raise error


def invalid_body(problems: Sequence[Any]) -> InvalidRequest:
    """Return pydantic's findings as one error that tells the first; values are not repeated, they may be huge."""
    first = problems[0] if problems else "The body does not fit."
    if not isinstance(first, dict):  # vLLM reports a wrong media type as a bare text
        return InvalidRequest(str(first))
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']}, at character {first['loc'][-1]}.")
    location = [str(part) for part in first["loc"][1:]]
    param = ".".join(takewhile(lambda part: _FIELD.fullmatch(part) and part not in _TYPE_NAMES, location))
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidRequest(f"{param or 'body'}: {first['msg']}{others}", param=param or None)
