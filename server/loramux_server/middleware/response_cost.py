"""The cost of a request in its response: a header, and `usage.cost` in US dollars for clients that ask for it.

The header has LiteLLM's name and the field OpenRouter's, which existing clients read. A stream's headers leave before
its cost is known: it is in the stream's last chunk, the one with its usage. An unknown cost is left out.
"""

import json
from collections.abc import Callable
from decimal import Decimal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_server.metering.usage_record import Route, RunStats
from loramux_server.request_context import RequestContext, current_request

HEADER = "x-litellm-response-cost"
PriceOf = Callable[[Route, RunStats], int | None]
"""Returns the cost of a request in nano-dollars, None if it has no price."""

_USAGE = b'"usage":{'
_DATA = b"data: "


def report_cost(app: ASGIApp, price_of: PriceOf) -> ASGIApp:
    """Add the cost to the responses of `app`."""

    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request.get()
        response = _PricedResponse(context, send, price_of)
        await app(scope, receive, send if context.operation is None else response.send)

    return reporting


class _PricedResponse:
    """A response whose start is held back if its body changes."""

    def __init__(self, context: RequestContext, send: Send, price_of: PriceOf) -> None:
        self._context, self._send, self._price_of = context, send, price_of
        self._start: Message | None = None
        self._body = b""
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._start is not None:
            await self._collect(message)
        elif self._is_stream and self._context.wants_cost:
            await self._send({**message, "body": self._priced_event(message.get("body", b""))})
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self._is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        cost = None if self._is_stream or message["status"] != 200 else self._cost()
        if cost is not None:
            message = {**message, "headers": [*message["headers"], (HEADER.encode(), f"{_dollars(cost):f}".encode())]}
            if self._context.wants_cost:
                self._start = message
                return
        await self._send(message)

    async def _collect(self, message: Message) -> None:
        """Send the whole response when its body is complete, with the cost in its usage."""
        self._body += message.get("body", b"")
        if message.get("more_body", False) or self._start is None:
            return
        body = self._priced(self._body)
        MutableHeaders(raw=self._start["headers"])["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({**message, "body": body})

    def _priced_event(self, events: bytes) -> bytes:
        """Return events of a stream with the cost in their usage, unchanged while the request runs."""
        if _USAGE not in events or self._cost() is None:
            return events
        return b"\n".join(map(self._priced_line, events.split(b"\n")))

    def _priced_line(self, line: bytes) -> bytes:
        return _DATA + self._priced(line.removeprefix(_DATA)) if line.startswith(_DATA) else line

    def _priced(self, content: bytes) -> bytes:
        """Return a JSON object with the cost in its usage."""
        cost, parsed = self._cost(), parse_json_object(content)
        usage = parsed.get("usage") if parsed else None
        if cost is None or not isinstance(usage, dict):
            return content
        usage["cost"] = float(_dollars(cost))
        return json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode()

    def _cost(self) -> int | None:
        usage = self._context.finished_usage()
        return None if usage is None else self._price_of(*usage)


def _dollars(nanodollars: int) -> Decimal:
    return Decimal(nanodollars).scaleb(-9)
