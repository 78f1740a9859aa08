"""All errors are sent in OpenAI's format."""

import json
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from loramux_server.errors import SERVER_FAULT, ModelNotFound, RateLimited, ServerOverloaded
from loramux_server.metering.usage_record import Outcome
from loramux_server.request_context import current_request
from tests.helpers.asgi import MiddlewareHarness, SentResponse, answering, streaming

EVENT = b'data: {"id": "1"}\n\n'
DONE = b"data: [DONE]\n\n"


def vllm_error(message: str = "No.", code: int = 500, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "SomeError", "param": param, "code": code}}).encode()


def error_of(answer: SentResponse) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    content = json.loads(answer.body)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert isinstance(content["error"], dict)
    return content["error"]


async def test_vllms_unknown_model_becomes_openais() -> None:
    message = "The model `nobody` does not exist. Valid aliases: base."
    answer = await MiddlewareHarness(answering(404, vllm_error(message, 404, "model"))).ask()
    assert answer.status == 404
    assert error_of(answer) == {
        "message": "The model `nobody` does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_an_error_body_in_pieces_is_read_as_one() -> None:
    body = vllm_error("The request is odd.", 400, "tools")
    answer = await MiddlewareHarness(answering(400, body[:10], body[10:])).ask()
    assert (answer.status, error_of(answer)["message"], error_of(answer)["param"]) == (
        400,
        "The request is odd.",
        "tools",
    )


async def test_an_internal_error_is_sent_without_its_message() -> None:
    server = MiddlewareHarness(answering(500, vllm_error("EngineCore died at /usr/lib/secret.py")))
    answer = await server.ask()
    assert (answer.status, error_of(answer)["message"], error_of(answer)["type"]) == (500, SERVER_FAULT, "server_error")
    assert server.meter.records[0].outcome is Outcome.FAILED


@pytest.mark.parametrize("body", [b"", b"Internal Server Error", b"[]", b"\xff", b"[" * 100_000, b'{"error": "x"}'])
async def test_an_error_with_any_body_gets_the_shape(body: bytes) -> None:
    for status in (400, 404, 500, 599):
        answer = await MiddlewareHarness(answering(status, body, content_type="text/plain")).ask()
        assert answer.status == status
        assert error_of(answer)["type"] == ("invalid_request_error" if status < 500 else "server_error")


async def test_a_wrong_method_is_reported_with_the_allowed_ones() -> None:
    answer = await MiddlewareHarness(answering(405, b'{"detail":"Method Not Allowed"}', allow="POST")).ask(method="PUT")
    assert answer.headers["allow"] == "POST"
    assert error_of(answer)["message"] == "Method Not Allowed: PUT /v1/chat/completions."


@pytest.mark.parametrize("started", [False, True])
async def test_a_refusal_in_the_context_takes_precedence_over_vllms_error(started: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_request.get().refusal = RateLimited("Slowly.", retry_after=3)
        inner = streaming(b"data: " + vllm_error() + b"\n\n", DONE) if started else answering(429, vllm_error())
        await inner(scope, receive, send)

    server = MiddlewareHarness(app)
    answer = await server.ask()
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    assert (error_of(answer)["message"], error_of(answer)["code"]) == ("Slowly.", "rate_limit_exceeded")
    (record,) = server.meter.records
    assert (record.outcome, record.error) == (Outcome.REFUSED, "rate_limit_exceeded")


async def test_a_stream_that_begins_with_an_error_is_no_stream() -> None:
    message = "This model's maximum context length is 2048 tokens."
    answer = await MiddlewareHarness(streaming(b"data: " + vllm_error(message, 400) + b"\n\n", DONE)).ask()
    assert (answer.status, error_of(answer)["code"]) == (400, "context_length_exceeded")
    assert len(answer.messages) == 2


async def test_an_error_within_a_stream_is_sent_as_an_event() -> None:
    server = MiddlewareHarness(streaming(EVENT, b"data: " + vllm_error("at 0x1", 500) + b"\n\n", DONE))
    answer = await server.ask()
    event, error, done = answer.body.removesuffix(b"\n\n").split(b"\n\n")
    assert (answer.status, event + b"\n\n", done + b"\n\n") == (200, EVENT, DONE)
    assert json.loads(error.removeprefix(b"data: "))["error"] == {
        "message": SERVER_FAULT,
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert server.meter.records[0].outcome is Outcome.FAILED


async def test_an_error_in_anthropics_stream_keeps_its_name() -> None:
    error = b'event: error\ndata: {"type": "error", "error": {"type": "internal_error", "message": "at 0x1"}}\n\n'
    server = MiddlewareHarness(streaming(b"event: message_start\ndata: {}\n\n", error))
    answer = await server.ask("/v1/messages")
    name, data = answer.body.split(b"\n\n")[1].split(b"\n")
    content = json.loads(data.removeprefix(b"data: "))
    assert (name, content["type"], content["error"]["message"]) == (b"event: error", "error", SERVER_FAULT)
    assert server.meter.records[0].outcome is Outcome.FAILED


async def test_content_that_looks_like_an_error_is_unchanged() -> None:
    body = b'data: {"error": "this is what the user asked for"}'
    answer = await MiddlewareHarness(answering(200, body, content_type="text/plain")).ask()
    assert (answer.status, answer.body) == (200, body)


def raising(error: Exception, *before: Message) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error

    return app


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
FIRST = {"type": "http.response.body", "body": EVENT, "more_body": True}


@pytest.mark.parametrize("before", [(), (START,)])
async def test_a_raised_api_error_is_rendered(before: tuple[Message, ...]) -> None:
    answer = await MiddlewareHarness(raising(ModelNotFound("nobody"), *before)).ask()
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("before", [(), (START,)])
async def test_an_unforeseen_error_is_answered_and_logged(
    before: tuple[Message, ...], caplog: pytest.LogCaptureFixture
) -> None:
    server = MiddlewareHarness(raising(ZeroDivisionError("secret"), *before))
    await server.ask()
    assert caplog.messages == ["the request failed: POST /v1/chat/completions"]
    answer = SentResponse(server.sent)
    assert (answer.status, error_of(answer)["message"]) == (500, SERVER_FAULT)
    assert server.meter.records[0].outcome is Outcome.FAILED


async def test_a_stream_in_which_the_handler_breaks_ends_with_an_error() -> None:
    server = MiddlewareHarness(raising(ZeroDivisionError("secret"), START, FIRST))
    await server.ask()
    answer = SentResponse(server.sent)
    event, error, end = answer.body.split(b"\n\n")
    assert (event + b"\n\n", end) == (EVENT, b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == SERVER_FAULT


async def test_a_client_that_leaves_before_its_body_is_read_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    await MiddlewareHarness(raising(ClientDisconnect())).ask()
    assert caplog.messages == []


async def test_an_error_after_a_complete_response_changes_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(EVENT)(scope, receive, send)
        raise ServerOverloaded("Too late.")

    answer = await MiddlewareHarness(app).ask()
    assert answer.body == EVENT
