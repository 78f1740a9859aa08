import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.robustness.adapter_api import ApiResponse, LoramuxAdapterApi, StockAdapterApi

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def session(handler: Handler, total_s: float = 5.0) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/"), timeout=aiohttp.ClientTimeout(total=total_s)) as session,
    ):
        yield session


class Recorder:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(
            (request.method, request.raw_path, await request.json() if request.can_read_body else None)
        )
        return web.Response()


async def test_loramux_is_called_over_its_admin_api() -> None:
    seen = Recorder()
    async with session(seen.answer) as open_session:
        api = LoramuxAdapterApi(open_session)
        assert await api.add("a", "/x") == ApiResponse(200, "")
        await api.replace("a", "/y")
        await api.remove("../a/b")
        await api.pin("a", pinned=True)
    assert seen.requests == [
        ("POST", "/admin/adapters", {"name": "a", "source": {"type": "folder", "path": "/x"}}),
        ("POST", "/admin/adapters", {"name": "a", "source": {"type": "folder", "path": "/y"}}),
        ("DELETE", "/admin/adapters/..%2Fa%2Fb", None),
        ("PUT", "/admin/adapters/a/pin", {"pinned": True}),
    ]


async def test_stock_vllm_is_called_over_its_loading_routes_and_has_no_pins() -> None:
    seen = Recorder()
    async with session(seen.answer) as open_session:
        api = StockAdapterApi(open_session)
        await api.add("a", "/x")
        await api.replace("a", "/x")
        await api.remove("a")
        assert await api.pin("a", pinned=True) is None
    assert seen.requests == [
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x"}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x", "load_inplace": True}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": "a"}),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "no"}}', "no"),
        ('{"error": null}', '{"error": null}'),
        ("<html>", "<html>"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
async def test_an_error_has_the_servers_message(body: str, message: str) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=400, text=body)

    async with session(refuse) as open_session:
        answer = await StockAdapterApi(open_session).add("a", "/x")
    assert answer == ApiResponse(400, message)
    assert not answer.accepted


async def test_a_closed_connection_and_a_timeout_are_responses_too() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async with session(hang_up) as open_session:
        assert (await LoramuxAdapterApi(open_session).add("a", "/x")).status == 0
    async with session(hang, total_s=0.1) as open_session:
        assert await LoramuxAdapterApi(open_session).add("a", "/x") == ApiResponse(0, "timeout")
