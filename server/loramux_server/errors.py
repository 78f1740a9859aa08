"""Errors of the API, and their rendering as responses.

LoramuxError                    500 server_error
├── InvalidRequest              400 invalid_request_error
│   ├── ContextLengthExceeded   400 context_length_exceeded
│   ├── InvalidApiKey           401 invalid_api_key
│   ├── NotPermitted            403 not_permitted
│   ├── ModelNotFound           404 model_not_found
│   ├── BodyTooLarge            413 body_too_large
│   └── RangeNotSatisfiable     416
├── RateLimited                 429 rate_limit_exceeded
├── InsufficientQuota           429 insufficient_quota
├── NotServing                  503, the adapters' own code
└── ServerOverloaded            503 server_overloaded, or engine_asleep
    ├── EngineDied              503 engine_dead
    └── ShuttingDown            503 server_overloaded

Messages are for clients: they contain no paths and no internals of the server.
"""

# ruff: noqa: N818 - the tree above shows that these are errors, so the names need no suffix.

from math import ceil
from typing import Any

from starlette.responses import JSONResponse

from loramux_adapters.errors import AdapterError, EngineAsleep, NoAdapterCapacity, TransientError


class CannotStart(Exception):
    """A start failed for a reason that the user can fix; the message says what is wrong and how to fix it."""


MAX_MESSAGE_LENGTH = 2000
SERVER_FAULT = "The server had an error while processing the request."


class LoramuxError(Exception):
    """The root of the tree; by itself a fault of the server.

    `type`, `code` and `param` (the invalid field) are OpenAI's; `retry_after` is in seconds.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retry_after: int | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        # Messages may quote clients: a name as long as a body, or lone surrogates.
        self.message = message[:MAX_MESSAGE_LENGTH].encode(errors="replace").decode()
        self.param = param
        self.status = status or self.status
        self.code = code or self.code
        self.retry_after = retry_after or self.retry_after

    @property
    def is_refusal(self) -> bool:
        """Whether the request was refused, as opposed to failed."""
        return self.status < 500 or self.status == 503

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        # OpenAI's clients retry a 409, but these conflicts last.
        return headers | ({"x-should-retry": "false"} if self.status == 409 else {})


class InvalidRequest(LoramuxError):
    """The request is invalid; retrying it will not help."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output are longer than the model's context."""

    code = "context_length_exceeded"


class InvalidApiKey(InvalidRequest):
    """The API key is missing or unknown."""

    status = 401
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return {"www-authenticate": "Bearer"}


class RangeNotSatisfiable(InvalidRequest):
    """A range starts after the end of what it is a range of, which has `size` bytes."""

    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"There are only {size} bytes.", param="range")
        self._size = size

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return {"content-range": f"bytes */{self._size}"}


class NotPermitted(InvalidRequest):
    """The API key lacks the required permission."""

    status = 403
    code = "not_permitted"


class ModelNotFound(InvalidRequest):
    """The name is neither the base nor an adapter nor a version."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model[:200]}` does not exist.", param="model")


class BodyTooLarge(InvalidRequest):
    """The body is larger than the server accepts."""

    status = 413
    code = "body_too_large"


class PricesChanged(InvalidRequest):
    """The prices were changed by somebody else meanwhile."""

    status = 409
    code = "prices_changed"


class RateLimited(LoramuxError):
    """Too many requests or tokens (`type`); retry after `retry_after` seconds, unless it `is_permanent`."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_after = 1

    def __init__(
        self,
        message: str,
        *,
        type: str = "requests",  # noqa: A002 - OpenAI's name
        code: str | None = None,
        retry_after: int | None = None,
        is_permanent: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.type, self._is_permanent = type, is_permanent

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return {"x-should-retry": "false"} if self._is_permanent else super().headers


class InsufficientQuota(LoramuxError):
    """A budget is used up until the next day or month, `retry_after` seconds from now."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return super().headers | {"x-should-retry": "false"}


class ServerOverloaded(LoramuxError):
    """No capacity at present; the same request may succeed later."""

    status = 503
    code = "server_overloaded"
    retry_after = 1


class NotServing(LoramuxError):
    """The adapter exists but is not served until an operator acts, for example because it is quarantined."""

    status = 503

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return super().headers | {"x-should-retry": "false"}


class EngineDied(ServerOverloaded):
    """The engine is lost: the server ends, and a supervisor may restart it."""

    code = "engine_dead"
    retry_after = 10

    def __init__(self) -> None:
        super().__init__("The engine has died, and the server ends: retry when it has been restarted.")


class ShuttingDown(ServerOverloaded):
    """The server accepts no new requests, and closes the connection."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.", retry_after=5)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of the error."""
        return super().headers | {"connection": "close"}


def envelope(error: LoramuxError) -> dict[str, Any]:
    """Return the error in OpenAI's format, for a body or a stream's event."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: LoramuxError) -> JSONResponse:
    """Return the error as a response."""
    return JSONResponse(envelope(error), error.status, error.headers)


_QUEUE_RETRY_SECONDS = 60
"""`retry-after` of a full job queue."""

_ADAPTER_STATUSES = {
    "adapter_error": 500,
    "adapter_name_invalid": 400,
    "version_invalid": 400,
    "alias_invalid": 400,
    "base_unsupported": 500,
    "adapter_invalid": 400,
    "adapter_rejected": 400,
    "source_unavailable": 502,
    "path_not_allowed": 403,
    "adapter_not_found": 404,
    "version_not_found": 404,
    "version_not_ready": 409,
    "adapter_quarantined": 503,
    "version_in_use": 409,
    "nothing_to_roll_back": 409,
    "pin_limit_reached": 409,
    "adapter_exists": 409,
    "alias_not_found": 404,
    "alias_conflict": 409,
    "model_not_found": 404,
    "adapter_store_failed": 500,
    "adapter_loading_failed": 500,
    "no_adapter_capacity": 503,
    "engine_asleep": 503,
    "file_not_found": 404,
    "file_in_use": 409,
    "idempotency_key_reused": 409,
    "file_invalid": 400,
    "file_too_large": 413,
    "upload_not_found": 404,
    "upload_state_invalid": 409,
    "training_file_invalid": 400,
    "job_not_found": 404,
    "job_state_invalid": 409,
    "job_invalid": 400,
    "job_queue_full": 429,
    "experiment_invalid": 400,
    "experiment_not_found": 404,
    "experiment_running": 409,
    "experiment_ended": 409,
    "request_not_found": 404,
    "feedback_closed": 409,
}


def from_adapter_error(error: AdapterError) -> LoramuxError:
    """Return an adapter error as an API error; messages of adapter errors are safe for clients."""
    status = _ADAPTER_STATUSES.get(error.code, 500)
    retry_after = ceil(error.retry_after) if isinstance(error, TransientError) else None
    if isinstance(error, NoAdapterCapacity):
        return ServerOverloaded(error.message, retry_after=retry_after)
    if isinstance(error, EngineAsleep):
        return ServerOverloaded(error.message, code=error.code, retry_after=retry_after)
    if status == 503:
        return NotServing(error.message, code=error.code)
    if status == 429:
        return RateLimited(error.message, code=error.code, retry_after=_QUEUE_RETRY_SECONDS)
    kind = InvalidRequest if status < 500 else LoramuxError
    param = getattr(error, "param", None)
    return kind(error.message, status=status, code=error.code, retry_after=retry_after, param=param)
