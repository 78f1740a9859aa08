"""The middleware behind the real HTTP server, with OpenAI's own client."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from loramux_server.metering.usage_record import Outcome, Route, RunStats
from loramux_server.middleware import add_error_handlers
from loramux_server.request_context import current_request
from tests.helpers.asgi import MiddlewareHarness

CHUNK = (
    'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", '
    '"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
)
ERROR = 'data: {"error": {"message": "%s", "type": "InternalServerError", "param": null, "code": %d}}\n\n'


class Handlers:
    """Chat responses like vLLM's; `model` selects the behaviour."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        add_error_handlers(self.app)

    async def chat(self, request: Request) -> object:
        model = (await request.json())["model"]
        if model == "nobody":
            message = "The model `nobody` does not exist."
            return JSONResponse({"error": {"message": message, "type": "NotFoundError", "code": 404}}, 404)
        return StreamingResponse(self.events(model), media_type="text/event-stream")

    async def events(self, model: str) -> AsyncIterator[str]:
        run = current_request.get().begin_run(Route())
        try:
            if model == "too long":
                yield ERROR % ("This model's maximum context length is 8 tokens.", 400)
            yield CHUNK
            if model == "broken":
                yield ERROR % ("at 0x1", 500)
            while model == "endless":
                await asyncio.sleep(0.01)
                yield CHUNK
            yield "data: [DONE]\n\n"
        finally:
            run.finish(RunStats(output_tokens=1))


@pytest.fixture
async def server() -> AsyncIterator[tuple[MiddlewareHarness, str]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = MiddlewareHarness(Handlers().app, max_body_bytes=1 << 20)
    uvicorn_server = uvicorn.Server(uvicorn.Config(server.wrapped, lifespan="off", log_config=None))
    serving = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
    while not uvicorn_server.started:  # noqa: ASYNC110 - it offers nothing to wait for
        await asyncio.sleep(0.01)
    yield server, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    uvicorn_server.should_exit = True
    await serving


@pytest.fixture
async def client(server: tuple[MiddlewareHarness, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server[1], api_key="none", max_retries=0) as client:
        yield client


async def pieces(client: openai.AsyncOpenAI, model: str) -> list[str | None]:
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    return [chunk.choices[0].delta.content async for chunk in stream]


async def outcomes(server: MiddlewareHarness) -> list[Outcome]:
    """Wait for the first record: a server notices a disconnect with a delay."""
    await asyncio.wait_for(server.meter.recorded.wait(), 5)
    return [record.outcome for record in server.meter.records]


async def test_a_stream_arrives_and_is_recorded(
    server: tuple[MiddlewareHarness, str], client: openai.AsyncOpenAI
) -> None:
    assert await pieces(client, "base") == ["x"]
    assert await outcomes(server[0]) == [Outcome.OK]


async def test_openais_client_raises_the_matching_exception(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await pieces(client, "nobody")
    with pytest.raises(openai.BadRequestError) as too_long:
        await pieces(client, "too long")
    assert (unknown.value.code, too_long.value.code) == ("model_not_found", "context_length_exceeded")
    assert unknown.value.request_id


async def test_an_error_within_a_stream_is_raised_by_the_client(
    server: tuple[MiddlewareHarness, str], client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.APIError) as caught:
        await pieces(client, "broken")
    assert caught.value.type == "server_error"
    assert await outcomes(server[0]) == [Outcome.FAILED]


async def test_a_client_that_hangs_up_has_cancelled(
    server: tuple[MiddlewareHarness, str], client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(model="endless", messages=[], stream=True)
    await anext(aiter(stream))
    await stream.close()
    assert await outcomes(server[0]) == [Outcome.CANCELLED]
    assert [record.stats.output_tokens for record in server[0].meter.records] == [1]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_of_50_megabytes_is_refused_in_words(
    server: tuple[MiddlewareHarness, str], is_chunked: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * (1 << 20)

    data = chunks() if is_chunked else io.BytesIO(b"x" * (50 << 20))
    headers = {"content-type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server[1]}/chat/completions", data=data, headers=headers) as answer,
    ):
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "body_too_large"
    assert await outcomes(server[0]) == [Outcome.REFUSED]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("HEAD", "/chat/completions", 405), ("OPTIONS", "/nowhere", 404)]
)
async def test_other_methods_and_paths_are_answered_in_shape(
    server: tuple[MiddlewareHarness, str], method: str, path: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, server[1] + path) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json")
        assert answer.headers["x-request-id"]
        assert (await answer.read() == b"") is (method == "HEAD")
