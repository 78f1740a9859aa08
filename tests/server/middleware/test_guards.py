"""Guards: drain, API keys, body size."""

import json

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from loramux_server.metering.usage_record import Outcome
from loramux_server.middleware.guards import MAX_FORM_BYTES, BodyLimits
from loramux_server.request_context import current_request
from tests.helpers.asgi import MiddlewareHarness, SentResponse, answering

OK = answering(200, b"{}")


def error(answer: SentResponse) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def pieces(*bodies: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": body, "more_body": number < len(bodies)}
        for number, body in enumerate(bodies, 1)
    ]


async def test_a_draining_server_refuses_requests_with_retry_after() -> None:
    server = MiddlewareHarness(OK)
    server.drain.start()
    answer = await server.ask()
    assert error(answer) == (503, "server_overloaded")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("5", "close")
    assert server.meter.records[0].outcome is Outcome.REFUSED


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_a_load_balancer_gets_answers_without_a_key_and_during_the_drain(path: str) -> None:
    server = MiddlewareHarness(OK, keys=["key"])
    server.drain.start()
    assert (await server.ask(path, "GET")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/models",
        "/metrics",
        "/admin/adapters",
        "/unknown",
        "/health/",
        "//ready",
        "/dashboards",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
async def test_everything_else_needs_a_key(path: str, method: str) -> None:
    server = MiddlewareHarness(OK, keys=["key"])
    answer = await server.ask(path, method)
    assert error(answer) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await server.ask(path, method, {"authorization": "Bearer key"})).status == 200


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/dashboard.js"])
async def test_the_page_needs_no_key_because_it_holds_no_data(path: str) -> None:
    assert (await MiddlewareHarness(OK, keys=["key"]).ask(path, "GET")).status == 200


async def test_the_handler_and_the_record_have_the_principal() -> None:
    principals = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        principals.append(current_request.get().principal)
        await OK(scope, receive, send)

    server = MiddlewareHarness(app, keys=["key"])
    await server.ask(headers={"authorization": "Bearer key"})
    await server.ask()
    assert len(principals) == 1
    assert principals[0] is not None
    assert [record.key_id for record in server.meter.records] == [principals[0].key_id, None]


@pytest.mark.parametrize("length", ["1001", "9" * 5000])
async def test_a_body_that_declares_to_be_too_large_is_refused_unread(length: str) -> None:
    def unread() -> Message:
        raise AssertionError("The body was read.")

    answer = await MiddlewareHarness(OK).ask(headers={"content-length": length}, body=(unread() for _ in range(1)))
    assert error(answer) == (413, "body_too_large")


@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}, {"content-length": "-1"}, {"content-length": "x"}])
async def test_a_body_that_grows_too_large_is_refused_where_it_does(headers: dict[str, str]) -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.post("/v1/completions")
    async def completions(body: dict[str, int]) -> dict[str, int]:
        return body

    read = []

    def body() -> list[Message]:
        return [read.append(part) or part for part in pieces(b"x" * 600, b"x" * 600, b"x" * 600)]  # type: ignore[func-returns-value]

    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = await MiddlewareHarness(app).ask(
            path, headers={"content-type": "application/json", **headers}, body=body()
        )
        assert error(answer) == (413, "body_too_large")


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> int:
        return len(await request.body())

    answer = await MiddlewareHarness(app).ask(headers={"content-length": "1000"}, body=pieces(b"x" * 500, b"x" * 500))
    assert (answer.status, answer.body) == (200, b"1000")


def test_a_path_with_a_file_may_have_a_larger_body_also_by_a_pattern() -> None:
    limits = BodyLimits(10, {"/v1/files": 1000, "/v1/uploads/*/parts": 2000})

    def limit(path: str, method: str = "POST") -> int:
        return limits.of({"type": "http", "method": method, "path": path})

    assert limit("/v1/files") == 1000 + MAX_FORM_BYTES
    assert limit("/v1/uploads/upload-1/parts") == 2000 + MAX_FORM_BYTES
    for path in ("/v1/uploads", "/v1/uploads/upload-1/complete", "/v1/chat/completions"):
        assert limit(path) == 10
    assert limit("/v1/uploads/upload-1/parts", "GET") == 10
