import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.robustness.adapter_api import Answer, LoramuxDoor, StockDoor

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
        self.asked: list[tuple[str, str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.raw_path, await request.json() if request.can_read_body else None))
        return web.Response()


async def test_loramux_is_asked_over_its_administration() -> None:
    seen = Recorder()
    async with session(seen.answer) as open_session:
        door = LoramuxDoor(open_session)
        assert await door.offer("a", "/x") == Answer(200, "")
        await door.renew("a", "/y")
        await door.withdraw("../a/b")
        await door.pin("a", pinned=True)
    assert seen.asked == [
        ("POST", "/admin/adapters", {"name": "a", "source": {"type": "folder", "path": "/x"}}),
        ("POST", "/admin/adapters", {"name": "a", "source": {"type": "folder", "path": "/y"}}),
        ("DELETE", "/admin/adapters/..%2Fa%2Fb", None),
        ("PUT", "/admin/adapters/a/pin", {"pinned": True}),
    ]


async def test_stock_vllm_is_asked_over_its_loading_routes_and_has_no_pins() -> None:
    seen = Recorder()
    async with session(seen.answer) as open_session:
        door = StockDoor(open_session)
        await door.offer("a", "/x")
        await door.renew("a", "/x")
        await door.withdraw("a")
        assert await door.pin("a", pinned=True) is None
    assert seen.asked == [
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x"}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x", "load_inplace": True}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": "a"}),
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": {"message": "no"}}', "no"),
        ('{"error": null}', '{"error": null}'),
        ("<html>", "<html>"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(body: str, said: str) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=400, text=body)

    async with session(refuse) as open_session:
        answer = await StockDoor(open_session).offer("a", "/x")
    assert answer == Answer(400, said)
    assert not answer.accepted


async def test_a_server_that_hangs_up_or_hangs_is_an_answer_too() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async with session(hang_up) as open_session:
        assert (await LoramuxDoor(open_session).offer("a", "/x")).status == 0
    async with session(hang, total_s=0.1) as open_session:
        assert await LoramuxDoor(open_session).offer("a", "/x") == Answer(0, "no answer in time")
