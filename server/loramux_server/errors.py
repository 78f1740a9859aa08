"""What a request can be answered with instead of a result, and the one place that renders it.

LoramuxError                    500 server_error
├── InvalidRequest              400 invalid_request_error
│   ├── ContextLengthExceeded   400 context_length_exceeded
│   ├── InvalidApiKey           401 invalid_api_key
│   ├── NotPermitted            403 not_permitted
│   ├── ModelNotFound           404 model_not_found
│   └── BodyTooLarge            413 body_too_large
├── RateLimited                 429 rate_limit_exceeded
├── NotServing                  503, the adapters' own code
└── ServerOverloaded            503 server_overloaded
    └── ShuttingDown            503 server_overloaded

A message is for the client: it names no path of the server and no internals.
"""

# ruff: noqa: N818 - each name says what happened; that it is an error stands in the tree above.

from math import ceil
from typing import Any

from starlette.responses import JSONResponse

from loramux_adapters.errors import AdapterError, NoAdapterCapacity, PassingError


class CannotStart(Exception):
    """What a start fails with that its user can mend: the message says what is wrong and what to do."""


MAX_MESSAGE_LENGTH = 2000
SERVER_FAULT = "The server had an error while processing the request."


class LoramuxError(Exception):
    """The root, and by itself a fault of the server.

    `status` is HTTP's; `type`, `code` and `param` (the field that is wrong) are OpenAI's; `retry_after` is in seconds.
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
        # Clients' own words come back in messages: a name as long as a body, halves of surrogate pairs.
        self.message = message[:MAX_MESSAGE_LENGTH].encode(errors="replace").decode()
        self.param = param
        self.status = status or self.status
        self.code = code or self.code
        self.retry_after = retry_after or self.retry_after

    @property
    def is_refusal(self) -> bool:
        """Whether the request was turned away, as opposed to having failed."""
        return self.status < 500 or self.status == 503

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to the error."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        # OpenAI's clients repeat a 409 by themselves, but a conflict here is one of names and lasts.
        return headers | ({"x-should-retry": "false"} if self.status == 409 else {})


class InvalidRequest(LoramuxError):
    """The request can't be served as it is; repeating it will not help."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and asked-for output are longer than the model's context."""

    code = "context_length_exceeded"


class InvalidApiKey(InvalidRequest):
    """No key, or one that is not known."""

    status = 401
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to the error."""
        return {"www-authenticate": "Bearer"}


class NotPermitted(InvalidRequest):
    """A known key without the permission that this needs."""

    status = 403
    code = "not_permitted"


class ModelNotFound(InvalidRequest):
    """The name is neither the base's nor an adapter's nor a version's."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model[:200]}` does not exist.", param="model")


class BodyTooLarge(InvalidRequest):
    """A body of more bytes than the server reads."""

    status = 413
    code = "body_too_large"


class RateLimited(LoramuxError):
    """Too many requests; `retry_after` says when to come back."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_after = 1


class ServerOverloaded(LoramuxError):
    """No room now; the same request may succeed later."""

    status = 503
    code = "server_overloaded"
    retry_after = 1


class NotServing(LoramuxError):
    """What was asked for is there and does not serve, until somebody does something about it."""

    status = 503

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to the error."""
        return super().headers | {"x-should-retry": "false"}


class ShuttingDown(ServerOverloaded):
    """The server takes no new work, and the connection is of no more use."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.", retry_after=5)

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to the error."""
        return super().headers | {"connection": "close"}


def envelope(error: LoramuxError) -> dict[str, Any]:
    """Return the error as OpenAI's clients expect it in a body or in a stream's event."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def response(error: LoramuxError) -> JSONResponse:
    """Return the answer that the error is."""
    return JSONResponse(envelope(error), error.status, error.headers)


_QUEUE_SECONDS = 60
"""When to come back to a queue of jobs that is full."""

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
    "adapter_store_failed": 500,
    "adapter_loading_failed": 500,
    "no_adapter_capacity": 503,
    "file_not_found": 404,
    "file_in_use": 409,
    "file_invalid": 400,
    "file_too_large": 413,
    "training_file_invalid": 400,
    "job_not_found": 404,
    "job_state_invalid": 409,
    "job_invalid": 400,
    "job_queue_full": 429,
}


def from_adapter_error(error: AdapterError) -> LoramuxError:
    """Return the error as HTTP's; its message is fit for clients by the promise of the adapters' room."""
    status = _ADAPTER_STATUSES.get(error.code, 500)
    retry_after = ceil(error.retry_after) if isinstance(error, PassingError) else None
    if isinstance(error, NoAdapterCapacity):
        return ServerOverloaded(error.message, retry_after=retry_after)
    if status == 503:
        return NotServing(error.message, code=error.code)
    if status == 429:
        return RateLimited(error.message, code=error.code, retry_after=_QUEUE_SECONDS)
    kind = InvalidRequest if status < 500 else LoramuxError
    param = getattr(error, "param", None)
    return kind(error.message, status=status, code=error.code, retry_after=retry_after, param=param)
