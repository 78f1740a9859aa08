"""Exception handlers of FastAPI: adapter errors and invalid bodies as API errors."""

import re
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.utils import request_body_to_args
from fastapi.exceptions import RequestValidationError

from loramux_adapters.errors import AdapterError
from loramux_server.errors import InvalidRequest, LoramuxError, error_response, from_adapter_error

# A location also contains the tried branch of a union, such as `list[int]` or `ToolMessage`, which is not a field.
_FIELD = re.compile(r"[a-z0-9_]+")
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "set", "tuple"})


def add_error_handlers(app: FastAPI) -> None:
    """Add handlers for API errors, adapter errors and invalid bodies; call it after vLLM has added its own."""

    async def respond(_: Request, error: Exception) -> Response:
        return error_response(_as_loramux(error))

    for kind in (LoramuxError, AdapterError, RequestValidationError, TypeError, AttributeError, LookupError):
        app.add_exception_handler(kind, respond)


def _as_loramux(error: Exception) -> LoramuxError:
    if isinstance(error, AdapterError):
        return from_adapter_error(error)
    if isinstance(error, RequestValidationError):
        return invalid_body(error.errors())
    if isinstance(error, TypeError):  # raised by vLLM's validators for a field of another type
        return InvalidRequest(f"A field of the body has the wrong type: {error}.")
    if isinstance(error, LoramuxError):
        return error
    if _is_of_validator(error):
        return InvalidRequest("A field of the body has the wrong type: expected those of OpenAI's API.")
    raise error


def _is_of_validator(error: Exception) -> bool:
    """Whether one of vLLM's validators failed at a body that it did not expect."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is request_body_to_args.__code__ for frame, _ in frames)


def invalid_body(problems: Sequence[Any]) -> InvalidRequest:
    """Return pydantic's problems as one error with the first of them, without values, which may be huge."""
    first = problems[0] if problems else "The body is invalid."
    if not isinstance(first, dict):  # vLLM reports a wrong media type as a string
        return InvalidRequest(str(first))
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']}, at character {first['loc'][-1]}.")
    location = enumerate(str(part) for part in first["loc"][1:])
    param = ".".join(part for _, part in takewhile(_is_field, location))
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")  # pydantic's words for the error of a validator
    return InvalidRequest(f"{param or 'body'}: {message}{others}", param=param or None)


def _is_field(part: tuple[int, str]) -> bool:
    """Whether a part of a location, with its depth, is a field; one of the body itself may have the name of a type."""
    depth, name = part
    return _FIELD.fullmatch(name) is not None and (depth == 0 or name not in _TYPE_NAMES)
