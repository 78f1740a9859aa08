"""Renders every error in OpenAI's format, with an HTTP error status if the response has not started."""

import json
import logging

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_server.errors import SERVER_FAULT, LoramuxError, envelope, error_response
from loramux_server.middleware.error_translation import from_body, from_event
from loramux_server.request_context import RequestContext, current_request

logger = logging.getLogger("loramux.requests")

_ANTHROPIC_ERROR = b"event: error\n"
"""Line before an error's data in the Anthropic protocol."""
_KEPT_HEADERS = ("allow", "content-range")
_ERROR_EVENTS = (b'data: {"error"', _ANTHROPIC_ERROR)


def render_errors(app: ASGIApp) -> ASGIApp:
    """Render exceptions of inner layers, and their responses with a status of 400 or more."""

    async def rendered(scope: Scope, receive: Receive, send: Send) -> None:
        buffered = _BufferedResponse(scope, receive, send, current_request.get())
        try:
            await app(scope, receive, buffered.send)
        except LoramuxError as error:
            await buffered.fail(error)
        except ClientDisconnect:
            logger.debug("the client left before its body was read")
        except Exception:
            logger.exception("the request failed: %s %s", scope["method"], scope["path"])
            await buffered.fail(LoramuxError(SERVER_FAULT))

    return rendered


class _BufferedResponse:
    """A response whose start is held back until it is known not to be an error.

    `_handle` is the state: the method that handles the next message.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        self._scope, self._receive, self._send, self._context = scope, receive, send, context
        self._start: Message = {}
        self._body = b""
        self._handle = self._hold_start

    async def send(self, message: Message) -> None:
        await self._handle(message)

    async def fail(self, error: LoramuxError) -> None:
        """Send the error as the response if it has not started, else as the stream's last event."""
        if self._handle == self._pass_event:
            self._handle = self._drop
            await self._send({"type": "http.response.body", "body": self._error_event(error), "more_body": False})
        elif self._handle in (self._hold_start, self._collect_error, self._hold_event):
            await self._respond(error)

    async def _hold_start(self, message: Message) -> None:
        self._start = message
        if message["status"] >= 400:
            self._handle = self._collect_error
        elif self._header("content-type").startswith("text/event-stream"):
            self._handle = self._hold_event
        else:
            self._handle = self._send_on
            await self._send(message)

    async def _collect_error(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            request_line = f"{self._scope['method']} {self._scope['path']}"
            await self._respond(from_body(self._start["status"], self._body, request_line))

    async def _hold_event(self, message: Message) -> None:
        """Check a stream's first event, which may be an error although vLLM has sent status 200."""
        if message.get("body", b"").startswith(_ERROR_EVENTS):
            await self._respond(from_event(message["body"]))
        else:
            self._handle = self._pass_event
            await self._send(self._start)
            await self._send(message)

    async def _pass_event(self, message: Message) -> None:
        event = message.get("body", b"")
        if event.startswith(_ERROR_EVENTS):
            name = _ANTHROPIC_ERROR if event.startswith(_ANTHROPIC_ERROR) else b""
            message = {**message, "body": self._error_event(from_event(event), name)}
        if not message.get("more_body", False):
            self._handle = self._drop
        await self._send(message)

    async def _send_on(self, message: Message) -> None:
        await self._send(message)

    async def _drop(self, message: Message) -> None:
        """Ignore messages after the response has ended."""

    async def _respond(self, error: LoramuxError) -> None:
        error = self._first_error(error)
        self._handle = self._drop
        rendered = error_response(error)
        rendered.headers.update({name: value for name in _KEPT_HEADERS if (value := self._header(name))})
        await rendered(self._scope, self._receive, self._send)

    def _error_event(self, error: LoramuxError, name: bytes = b"") -> bytes:
        content = envelope(self._first_error(error)) | ({"type": "error"} if name else {})
        return name + b"data: " + json.dumps(content).encode() + b"\n\n"

    def _first_error(self, error: LoramuxError) -> LoramuxError:
        """Return the error set where the request was refused, else set and return `error`."""
        self._context.refusal = self._context.refusal or error
        return self._context.refusal

    def _header(self, name: str) -> str:
        return Headers(raw=self._start.get("headers", [])).get(name, "")
