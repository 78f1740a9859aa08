"""Ids, timing, and exactly one usage record per generation."""

import re

import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from loramux_server.metering.usage_record import Operation, Outcome, Route, RunStats
from loramux_server.request_context import current_request
from tests.helpers.asgi import MiddlewareHarness, answering, streaming

EVENT = b'data: {"id": "1"}\n\n'


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", Operation.CHAT),
        ("/v1/completions", Operation.COMPLETIONS),
        ("/v1/responses", Operation.RESPONSES),
        ("/v1/messages", Operation.MESSAGES),
    ],
)
async def test_a_generation_creates_one_record(path: str, operation: Operation) -> None:
    server = MiddlewareHarness(answering(200, b"{}"))
    await server.ask(path)
    (record,) = server.meter.records
    assert (record.operation, record.outcome, record.status, record.key_id) == (operation, Outcome.OK, 200, "anonymous")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/responses"), ("OPTIONS", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/v1/files")],
)
async def test_other_requests_create_no_record(method: str, path: str) -> None:
    server = MiddlewareHarness(answering(200, b"{}"))
    await server.ask(path, method)
    assert server.meter.records == []


@pytest.mark.parametrize("own", ["abc", "A.b_c-9", "x" * 64])
async def test_a_safe_request_id_of_the_client_is_kept(own: str) -> None:
    answer = await MiddlewareHarness(answering(200, b"{}")).ask(headers={"x-request-id": own})
    assert answer.headers.getlist("x-request-id") == [own]


@pytest.mark.parametrize("own", ["", "x" * 65, "a b", "a\nb", "../etc", "\xe9", "a;b"])
async def test_an_unsafe_request_id_is_replaced(own: str) -> None:
    answer = await MiddlewareHarness(answering(200, b"{}")).ask(headers={"x-request-id": own})
    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_the_handler_sees_the_same_id_in_headers_and_context_and_no_other() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((Headers(scope=scope).getlist("x-request-id"), current_request.get().request_id))
        await answering(200, b"{}")(scope, receive, send)

    answer = await MiddlewareHarness(app).ask(headers={"x-request-id": "a b"})
    assert seen == [([answer.headers["x-request-id"]], answer.headers["x-request-id"])]


async def test_responses_have_their_processing_time_but_streams_do_not() -> None:
    plain = await MiddlewareHarness(answering(200, b"{}")).ask()
    stream = await MiddlewareHarness(streaming(EVENT)).ask()
    assert plain.headers["openai-processing-ms"].isdecimal()
    assert "openai-processing-ms" not in stream.headers
    assert stream.headers["x-request-id"]


async def test_a_stream_passes_unchanged() -> None:
    events = (b"", EVENT, b'data: {"id": "2"}\n\n', b"data: [DONE]\n\n")
    answer = await MiddlewareHarness(streaming(*events)).ask()
    assert (answer.status, [message.get("body") for message in answer.messages[1:]]) == (200, [*events, b""])


async def test_a_client_that_leaves_during_the_stream_cancelled_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await receive()
        await receive()

    server = MiddlewareHarness(app)
    await server.ask()
    assert server.meter.records[0].outcome is Outcome.CANCELLED


async def test_a_disconnect_before_the_response_counts_as_cancelled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await answering(400, b'{"error": {"message": "Client disconnected", "code": 400}}')(scope, receive, send)

    server = MiddlewareHarness(app)
    await server.ask()
    assert server.meter.records[0].outcome is Outcome.CANCELLED


async def test_a_disconnect_after_the_answer_is_none() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(200, b"{}")(scope, receive, send)
        await receive()
        await receive()

    server = MiddlewareHarness(app)
    await server.ask()
    assert server.meter.records[0].outcome is Outcome.OK


async def test_an_answer_that_stops_short_has_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    server = MiddlewareHarness(app)
    await server.ask()
    assert server.meter.records[0].outcome is Outcome.FAILED


async def test_a_run_that_ends_after_the_response_still_counts_and_only_then() -> None:
    runs = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        runs.append(current_request.get().begin_run(Route("tone")))
        await answering(200, b"{}")(scope, receive, send)

    server = MiddlewareHarness(app)
    await server.ask()
    assert (server.meter.begun, server.meter.records) == ([Route("tone")], [])
    runs[0].finish(RunStats(output_tokens=3))
    assert [record.stats.output_tokens for record in server.meter.records] == [3]


async def test_nothing_of_a_request_is_left_in_the_context() -> None:
    await MiddlewareHarness(answering(200, b"{}")).ask()
    assert current_request.get(None) is None


async def test_websockets_are_turned_away_and_the_lifespan_is_the_applications() -> None:
    seen, sent = [], []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def send(message: object) -> None:
        sent.append(message)

    for kind in ("websocket", "lifespan"):
        await MiddlewareHarness(app, keys=["key"]).wrapped({"type": kind}, None, send)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]
