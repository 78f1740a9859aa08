"""Requests to an ASGI application, message by message, and applications with scripted responses."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_server.auth import Authenticator, IssuedKeys
from loramux_server.metering.usage_record import Route, UsageRecord
from loramux_server.middleware import BodyLimits, DrainState, add_middleware

DISCONNECT: Message = {"type": "http.disconnect"}


@dataclass
class SentResponse:
    """The messages that an application sent."""

    messages: list[Message]

    @property
    def status(self) -> int:
        """The status; there must be exactly one start message."""
        (start,) = (message for message in self.messages if message["type"] == "http.response.start")
        return int(start["status"])

    @property
    def headers(self) -> Headers:
        """The headers."""
        return Headers(raw=self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        """The whole body, which must be complete."""
        assert not self.messages[-1].get("more_body", False)
        return b"".join(message.get("body", b"") for message in self.messages)


@dataclass
class RecordingMeter:
    """A meter that stores its calls."""

    begun: list[Route] = field(default_factory=list)
    records: list[UsageRecord] = field(default_factory=list)
    recorded: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, route: Route) -> None:
        """Store the route."""
        self.begun.append(route)

    def record(self, record: UsageRecord) -> None:
        """Store the record."""
        self.records.append(record)
        self.recorded.set()


@dataclass
class MiddlewareHarness:
    """An application wrapped in all middleware."""

    app: ASGIApp
    keys: Sequence[str] = ()
    issued: IssuedKeys | None = None
    max_body_bytes: int = 1000
    drain: DrainState = field(default_factory=DrainState)
    meter: RecordingMeter = field(default_factory=RecordingMeter)
    sent: list[Message] = field(default_factory=list)
    origins: Sequence[str] = ()

    @property
    def wrapped(self) -> ASGIApp:
        """The wrapped application."""
        return add_middleware(
            self.app,
            drain=self.drain,
            authenticator=Authenticator(self.keys, self.issued),
            limits=BodyLimits(self.max_body_bytes),
            meter=self.meter,
            origins=self.origins,
        )

    async def ask(
        self,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: Iterable[Message] = ({"type": "http.request", "body": b"{}", "more_body": False},),
    ) -> SentResponse:
        """Send one request; after its body, the client disconnects."""
        self.sent.clear()
        incoming = iter(body)

        async def receive() -> Message:
            return next(incoming, DISCONNECT)

        async def send(message: Message) -> None:
            self.sent.append(message)

        pairs = headers.items() if isinstance(headers, Mapping) else headers
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
        }
        await self.wrapped(scope, receive, send)
        return SentResponse(list(self.sent))


def answering(status: int, *chunks: bytes, content_type: str = "application/json", **headers: str) -> ASGIApp:
    """Return an application that always responds with these chunks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(b"content-type", content_type.encode()), *((k.encode(), v.encode()) for k, v in headers.items())]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def streaming(*events: bytes) -> ASGIApp:
    """Return an application that responds with a stream of events."""
    return answering(200, *events, content_type="text/event-stream; charset=utf-8")
