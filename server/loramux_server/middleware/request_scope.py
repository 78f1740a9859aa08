"""The outermost layer: gives each request an id and a context, and closes the context at its end."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_adapters.errors import printable
from loramux_server.metering.usage_record import Operation, Outcome
from loramux_server.middleware.browsers import security_headers
from loramux_server.request_context import Meter, RequestContext, current_request

OPERATIONS = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETIONS,
    "/v1/responses": Operation.RESPONSES,
    "/v1/messages": Operation.MESSAGES,
}
"""Paths of generation; each POST to one creates a usage record."""

access_log = logging.getLogger("loramux.access")
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def with_request_context(app: ASGIApp, meter: Meter) -> ASGIApp:
    """Create a RequestContext per request; close it when the response is complete or the client disconnects."""

    async def contextual(scope: Scope, receive: Receive, send: Send) -> None:
        operation = OPERATIONS.get(scope["path"]) if scope["method"] == "POST" else None
        headers = Headers(scope=scope)
        context = RequestContext(_request_id(headers), operation, meter, traceparent=headers.get("traceparent"))
        observer = _ResponseObserver(context, receive, send)
        token = current_request.set(context)
        try:
            await app(_with_request_id(scope, context.request_id), observer.receive, observer.send)
        finally:
            current_request.reset(token)
            context.close(observer.status, observer.outcome)
            if access_log.isEnabledFor(logging.INFO):
                _log_request(scope, context, observer)

    return contextual


class _ResponseObserver:
    """Observes the status and end of a response, and whether the client disconnects before it."""

    def __init__(self, context: RequestContext, receive: Receive, send: Send) -> None:
        self._context, self._receive, self._send = context, receive, send
        self.status = 0
        self._is_complete = False
        self._client_left = False

    @property
    def outcome(self) -> Outcome:
        """Outcome of the request, as known at present."""
        refusal = self._context.refusal
        if self._client_left:
            return Outcome.CANCELLED
        if refusal is not None:
            return Outcome.REFUSED if refusal.is_refusal else Outcome.FAILED
        return Outcome.OK if self._is_complete else Outcome.FAILED

    async def receive(self) -> Message:
        message = await self._receive()
        # Servers report a disconnect after every complete response, too.
        if message["type"] == "http.disconnect" and not self._is_complete:
            self._client_left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers(message)]}
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    def _headers(self, start: Message) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self._context.request_id.encode()), *security_headers(start.get("headers", ()))]
        if self._context.reservation is not None:
            headers.extend(self._context.reservation.headers)
        if self._context.experiment is not None:
            headers.append((b"x-loramux-experiment", self._context.experiment.header.encode()))
        if not Headers(raw=start.get("headers", [])).get("content-type", "").startswith("text/event-stream"):
            milliseconds = round((time.monotonic() - self._context.started) * 1000)
            headers.append((b"openai-processing-ms", str(milliseconds).encode()))
        return headers


def _log_request(scope: Scope, context: RequestContext, observer: _ResponseObserver) -> None:
    """Log the end of a request; the query of its URL may contain secrets."""
    fields = {
        "request_id": context.request_id,
        "method": scope["method"],
        "path": printable(scope["path"]),
        "status": observer.status,
        "outcome": observer.outcome.value,
        "seconds": round(time.monotonic() - context.started, 4),
        "key_id": None if context.principal is None else context.principal.key_id,
    }
    line = "%(method)s %(path)s %(status)d %(seconds).3f s %(key_id)s"
    access_log.info(line, fields, extra=fields)


def _request_id(headers: Headers) -> str:
    """Return the client's request id if it is safe in logs and headers, else a new one."""
    own = headers.get("x-request-id", "")
    return own if _SAFE_ID.fullmatch(own) else f"req_{uuid.uuid4().hex}"


def _with_request_id(scope: Scope, request_id: str) -> Scope:
    """Return the scope with only this request id, so that the engine logs the same one."""
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"x-request-id"]
    return {**scope, "headers": [*others, (b"x-request-id", request_id.encode())]}
