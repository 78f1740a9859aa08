"""uvicorn's HTTP protocol with limits: uvicorn itself bounds neither headers nor the time that a client takes."""

import asyncio
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from loramux_server.errors import InvalidRequest, LoramuxError, error_response
from loramux_server.transport.limits import ConnectionLimits

MIN_BYTES_PER_SECOND = 1000
"""Average rate at which a body must arrive."""
MAX_PIPELINED = 16
"""Requests that a client may send before the first of them is answered."""


class _Refused(Exception):  # noqa: N818 - it ends the parsing, and is no error of the server
    """Ends the parsing of what a client sends."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection of a client.

    A connection is idle, or it receives the headers or the body of a request; `_timer` limits the time of each. What
    breaks a limit is answered with an error if no other response is on its way, and then the connection is closed.
    """

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._refusal = InvalidRequest("This is not a valid HTTP request.")
        self._is_idle = True
        self._header_bytes = self._header_count = self._unparsed_bytes = self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start to wait for the headers of the first request."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._set_timer(None)
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self.transport.is_closing():
            return
        if self._is_idle:
            self._await_headers()
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > self._limits.header_bytes and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        """Count the headers of the next request."""
        self._header_bytes = self._header_count = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused(InvalidRequest("Too many requests were sent without waiting for a response."))
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a part of the URL."""
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, also one after the body."""
        self._header_count += 1
        self._count_header(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start to wait for the body."""
        self._unparsed_bytes = 0
        super().on_headers_complete()
        self._await_body()

    def on_body(self, body: bytes) -> None:
        """Count a part of the body."""
        self._unparsed_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing: uvicorn closes a connection that stays idle after a response."""
        self._unparsed_bytes, self._is_idle = 0, True
        self._set_timer(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a client that is being disconnected a limited time to read the response."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_send_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, at the latest after the time that a client has to read."""
        super().timeout_keep_alive_handler()
        self._start_send_timer()

    def pause_writing(self) -> None:
        """Start the time that the client has to read."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """Stop the time that the client has to read."""
        super().resume_writing()
        self._stop_send_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message says less
        """Answer with the reason for which the parsing ended."""
        self._refuse(self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Handle a request for a WebSocket as any other, without uvicorn's advice to install a library for them."""

    def _await_headers(self) -> None:
        self._is_idle = False
        message = f"The headers did not arrive within {self._limits.header_seconds:g} seconds."
        self._set_timer(self._limits.header_seconds, self._refuse, InvalidRequest(message, status=408))

    def _await_body(self) -> None:
        """Give the client another period, which does not count if the server itself can't keep up with reading."""
        self._body_bytes = 0
        self._set_timer(self._limits.body_seconds, self._check_body, self.flow.read_paused)

    def _check_body(self, was_paused: bool) -> None:
        is_slow = self._body_bytes < MIN_BYTES_PER_SECOND * self._limits.body_seconds
        is_answered = self.cycle is not None and self.cycle.response_complete  # the rest of the body is dropped
        if is_answered or (is_slow and not was_paused and not self.flow.read_paused):
            self.transport.close()
            self._start_send_timer()
        else:
            self._await_body()

    def _count_header(self, size: int) -> None:
        self._unparsed_bytes = 0
        self._header_bytes += size
        if self._header_bytes > self._limits.header_bytes or self._header_count > self._limits.headers:
            raise self._refused(self._too_large())

    def _too_large(self) -> InvalidRequest:
        limits = self._limits
        return InvalidRequest(
            f"The headers are too large: at most {limits.headers} and {limits.header_bytes} bytes are accepted.",
            status=431,
        )

    def _refused(self, error: InvalidRequest) -> _Refused:
        self._refusal = error
        return _Refused(error.message)

    def _refuse(self, error: LoramuxError) -> None:
        """Answer with an error, unless another response is on its way, and close the connection."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_rendered(error_response(error)))
        self.transport.close()
        self._start_send_timer()

    def _set_timer(self, seconds: float | None, call: Any = None, *arguments: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, call, *arguments)

    def _start_send_timer(self) -> None:
        self._stop_send_timer()
        self._send_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
        self._send_timer = None


def _rendered(response: Response) -> bytes:
    """Return a whole response as bytes, after which the connection is closed."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join((STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)))
