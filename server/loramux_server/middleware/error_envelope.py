"""Every error leaves in OpenAI's shape, with a real status wherever the response has not begun."""

import json

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_server.errors import SERVER_FAULT, LoramuxError, envelope, response
from loramux_server.middleware.error_translation import from_body, from_event
from loramux_server.request_context import RequestContext, current_request

_NAMED = b"event: error\n"
"""What the Anthropic protocol puts before an error's data."""
_ERROR_EVENTS = (b'data: {"error"', _NAMED)


def render_errors(app: ASGIApp) -> ASGIApp:
    """Render what is raised inside, and what inner handlers answer with a status of 400 or more."""

    async def rendered(scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(scope, receive, send, current_request.get())
        try:
            await app(scope, receive, reply.send)
        except LoramuxError as error:
            await reply.fail(error)
        except Exception:
            await reply.fail(LoramuxError(SERVER_FAULT))
            raise  # the server logs it

    return rendered


class _Reply:
    """A response on its way out: its start is held until it is known to be no error.

    `_take` is the state: what is done with the next message.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        self._scope, self._receive, self._send, self._context = scope, receive, send, context
        self._start: Message = {}
        self._body = b""
        self._take = self._hold_start

    async def send(self, message: Message) -> None:
        await self._take(message)

    async def fail(self, error: LoramuxError) -> None:
        """Answer with the error if that is still possible, or end the stream with it."""
        if self._take == self._pass_event:
            self._take = self._drop
            await self._send({"type": "http.response.body", "body": self._error_event(error), "more_body": False})
        elif self._take in (self._hold_start, self._collect_error, self._hold_event):
            await self._answer(error)

    async def _hold_start(self, message: Message) -> None:
        self._start = message
        if message["status"] >= 400:
            self._take = self._collect_error
        elif self._header("content-type").startswith("text/event-stream"):
            self._take = self._hold_event
        else:
            self._take = self._send_on
            await self._send(message)

    async def _collect_error(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            request_line = f"{self._scope['method']} {self._scope['path']}"
            await self._answer(from_body(self._start["status"], self._body, request_line))

    async def _hold_event(self, message: Message) -> None:
        """Take a stream's first event: vLLM has said 200 by now, even if it is an error."""
        if message.get("body", b"").startswith(_ERROR_EVENTS):
            await self._answer(from_event(message["body"]))
        else:
            self._take = self._pass_event
            await self._send(self._start)
            await self._send(message)

    async def _pass_event(self, message: Message) -> None:
        event = message.get("body", b"")
        if event.startswith(_ERROR_EVENTS):
            name = _NAMED if event.startswith(_NAMED) else b""
            message = {**message, "body": self._error_event(from_event(event), name)}
        if not message.get("more_body", False):
            self._take = self._drop
        await self._send(message)

    async def _send_on(self, message: Message) -> None:
        await self._send(message)

    async def _drop(self, message: Message) -> None:
        """Ignore what the handler says after the answer."""

    async def _answer(self, error: LoramuxError) -> None:
        error = self._noted(error)
        self._take = self._drop
        answer = response(error)
        if allowed := self._header("allow"):
            answer.headers["allow"] = allowed
        await answer(self._scope, self._receive, self._send)

    def _error_event(self, error: LoramuxError, name: bytes = b"") -> bytes:
        content = envelope(self._noted(error)) | ({"type": "error"} if name else {})
        return name + b"data: " + json.dumps(content).encode() + b"\n\n"

    def _noted(self, error: LoramuxError) -> LoramuxError:
        """Return the error to tell: the reason that was noted where it arose, else `error`, noted now."""
        self._context.refusal = self._context.refusal or error
        return self._context.refusal

    def _header(self, name: str) -> str:
        return Headers(raw=self._start.get("headers", [])).get(name, "")
