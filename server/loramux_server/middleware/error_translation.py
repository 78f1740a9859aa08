"""Translation of vLLM's and FastAPI's error bodies to API errors."""

import re
from http.client import responses
from typing import Any

from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_server.errors import (
    SERVER_FAULT,
    ContextLengthExceeded,
    InvalidRequest,
    LoramuxError,
    ModelNotFound,
    RateLimited,
    ServerOverloaded,
)

_UNKNOWN_MODEL = re.compile(r"The model `(.*)` does not exist", re.DOTALL)
_TOO_LONG = re.compile(r"maximum (context|model) length")


def from_body(status: int, body: bytes, request_line: str) -> LoramuxError:
    """Return the error of a response with `status` >= 400 and any body; `request_line` is METHOD /path."""
    content = parse_json_object(body) or {}
    detail = content.get("detail")
    if isinstance(detail, str):
        is_reason_phrase = detail == responses.get(status)
        return _from_parts(status, f"{detail}: {request_line}." if is_reason_phrase else detail, None, None)
    return from_vllm(status, content)


def from_vllm(status: int, content: dict[str, Any]) -> LoramuxError:
    """Return vLLM's `{"error": {"message", "type", "param", "code": status}}` as an error."""
    error = content.get("error")
    fields = error if isinstance(error, dict) else {}
    message, param, code = fields.get("message"), fields.get("param"), fields.get("code")
    return _from_parts(
        status,
        message if isinstance(message, str) else "The request can't be served.",
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )


def from_event(event: bytes) -> LoramuxError:
    """Return the error of a stream's event `data: {"error": ...}`, whose code is the HTTP status."""
    content = parse_json_object(event.partition(b"data: ")[2]) or {}
    error = content.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return from_vllm(code if isinstance(code, int) and 400 <= code < 600 else 500, content)


def _from_parts(status: int, message: str, param: str | None, code: str | None) -> LoramuxError:
    unknown_model = _UNKNOWN_MODEL.search(message) if status == 404 else None
    if unknown_model:
        return ModelNotFound(unknown_model[1])
    if status == 400 and _TOO_LONG.search(message):
        return ContextLengthExceeded(message)
    if status == 429:
        return RateLimited(message, code=code)
    if status == 503:
        return ServerOverloaded(message, code=code)
    if status >= 500 and status != 501:  # without one of our codes, the message is for the log only
        return LoramuxError(message if code else SERVER_FAULT, status=status, code=code)
    # vLLM's 501 means an unsupported request; clients would retry it as a fault of the server.
    return InvalidRequest(message, status=400 if status in (422, 501) else status, param=param, code=code)
