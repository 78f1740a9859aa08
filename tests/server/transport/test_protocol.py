"""Hostile clients on real sockets: headers without end, bodies without bytes, responses that nobody reads."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from loramux_server.lifecycle import Lifecycle, bind
from loramux_server.transport.limits import ConnectionLimits

PATIENT = ConnectionLimits(header_bytes=2048, headers=20)
IMPATIENT = ConnectionLimits(body_seconds=0.1, send_seconds=0.1)
IMPATIENT_FOR_HEADERS = ConnectionLimits(header_seconds=0.1)
WAIT = 30
GET = b"GET /size HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /size HTTP/1.1\r\nHost: localhost\r\n"


@dataclass
class App:
    """Answers /size with the bytes of the body, and streams without end to all other paths."""

    disconnected: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._size if scope["path"] == "/size" else self._stream)(receive, send)

    async def _size(self, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d bytes" % size})

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.disconnected.is_set():
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            if self.gone(receive):
                self.disconnected.set()
            await asyncio.sleep(0)

    @staticmethod
    def gone(receive: Any) -> bool:
        """Whether the client of a request has been disconnected."""
        return bool(receive.__self__.disconnected)


@dataclass
class Running:
    """A server, and the port that it listens on."""

    app: App
    port: int

    async def ask(self, *pieces: bytes) -> bytes:
        """Send the pieces, and return all that the server sends until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await asyncio.wait_for(reader.read(), WAIT)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def running(limits: ConnectionLimits) -> AsyncIterator[Running]:
    app, listener, started = App(), bind("127.0.0.1", 0), asyncio.Event()
    life = Lifecycle(app, listener, lambda: False, lambda: None, 0, limits, handles_signals=False)
    living = asyncio.create_task(life.run(started.set))
    await started.wait()
    yield Running(app, listener.getsockname()[1])
    app.disconnected.set()
    life.stop()
    await living


@pytest.fixture
async def patient() -> AsyncIterator[Running]:
    async with running(PATIENT) as server:
        yield server


@pytest.fixture
async def impatient() -> AsyncIterator[Running]:
    async with running(IMPATIENT) as server:
        yield server


def error(response: bytes) -> tuple[int, str]:
    """Return the status and the message of an error, which must be in OpenAI's format and close the connection."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    fields = json.loads(body)["error"]
    assert fields["type"] == "invalid_request_error"
    return int(head.split()[1]), fields["message"]


LARGE_HEADERS = (
    GET + b"a: b\r\n" * 20 + b"\r\n",
    GET + b"a: " + b"b" * 2048 + b"\r\n\r\n",
    GET + b"a" * 2048 + b": b\r\n\r\n",
    b"GET /" + b"a" * 2048 + b" HTTP/1.1\r\n\r\n",
    GET + b"a: " + b"b" * 1_000_000,  # without end
    b"GET /" + b"a" * 1_000_000,
    b"\r\n" * 500_000,
    POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"a: b\r\n" * 20 + b"\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: " + b"b" * 1_000_000,
    POST + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000,
)


async def test_headers_beyond_a_limit_end_the_connection(patient: Running) -> None:
    for request in LARGE_HEADERS:
        response = await patient.ask(request)
        assert b" 200 " not in response
        if response and POST not in request:  # what was never read makes the kernel drop the response
            status, message = error(response)
            assert status in (400, 431)
            assert status == 400 or "20 and 2048 bytes" in message


async def test_headers_up_to_the_limits_are_accepted(patient: Running) -> None:
    headers = b"a: " + b"b" * 1900 + b"\r\n" + b"a: b\r\n" * 17
    assert b"0 bytes" in await patient.ask(GET + headers + b"connection: close\r\n\r\n")


async def test_a_large_body_in_one_piece_with_its_headers_is_not_taken_for_headers(patient: Running) -> None:
    body = b"content-length: 3000000\r\nconnection: close\r\n\r\n" + bytes(3_000_000)
    assert b"3000000 bytes" in await patient.ask(POST + body)


async def test_headers_that_do_not_come_in_time_are_answered_with_408() -> None:
    async with running(IMPATIENT_FOR_HEADERS) as server:
        for request in (b"", b"GET", GET, GET + b"a: b\r\n", b"\r\n"):
            message = "The headers did not arrive within 0.1 seconds."
            assert error(await server.ask(request)) == (408, message)


async def test_a_body_that_does_not_come_in_time_ends_the_request(impatient: Running) -> None:
    for body in (
        b"content-length: 1000\r\n\r\nabc",
        b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n",
        b"transfer-encoding: chunked\r\n\r\n0\r\na: b\r\n",
    ):
        assert await impatient.ask(POST + body) == b""
        await asyncio.wait_for(impatient.app.disconnected.wait(), WAIT)
        impatient.app.disconnected.clear()


async def test_a_response_that_nobody_reads_ends_the_request(impatient: Running) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port)) as client:
        client.sendall(b"GET /stream HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(impatient.app.disconnected.wait(), WAIT)


async def test_a_client_that_pipelines_without_reading_is_disconnected(patient: Running) -> None:
    response = await patient.ask(b"GET /stream HTTP/1.1\r\n\r\n" + (GET + b"\r\n") * 17)
    assert b"bytes" not in response


async def test_some_pipelined_requests_are_answered_in_order(patient: Running) -> None:
    sizes = b"".join(POST + b"content-length: %d\r\n\r\n%s" % (size, bytes(size)) for size in (1, 2, 3))
    response = await patient.ask(sizes + GET + b"connection: close\r\n\r\n")
    assert [int(size) for size in re.findall(rb"(\d) bytes", response)] == [1, 2, 3, 0]


async def test_many_idle_connections_leave_room_for_a_request(patient: Running) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", patient.port) for _ in range(100)]
    assert b"0 bytes" in await patient.ask(GET + b"connection: close\r\n\r\n")
    for _, writer in idle:
        writer.close()
