"""Limits on a whole server: refused like OpenAI refuses, reserved at the start, settled at the end, and kept."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

PRICES = {"base": {"input": 1, "output": 2}}
KEY = "key:anonymous"
pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, prices=PRICES) as server:
        await server.add("tone")
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(shared: TinyServer) -> AsyncIterator[TinyServer]:
    """The shared server, without limits at the end of each test."""
    yield shared
    for one in (await shared.http.get("/admin/limits")).json()["data"]:
        await shared.http.delete(f"/admin/limits/{one['kind']}/{one['name']}")


async def limit(tiny: TinyServer, subject: str = KEY, **limits: Any) -> None:
    kind, _, name = subject.partition(":")
    response = await tiny.http.put(f"/admin/limits/{kind}/{name}", json=limits)
    assert response.status_code == 200, response.text


async def ask(tiny: TinyServer, model: str | None = None, **options: Any) -> Any:
    return await tiny.client.chat.completions.with_raw_response.create(
        model=model or tiny.server.base_name,
        messages=[{"role": "user", "content": "hello"}],
        **{"max_tokens": 5} | options,
    )


async def refused(tiny: TinyServer, model: str | None = None, **options: Any) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(tiny, model, **options)
    return caught.value


async def test_a_response_says_what_is_left_of_the_limits(tiny: TinyServer) -> None:
    assert not [name for name in (await ask(tiny)).headers if name.startswith("x-ratelimit")]
    await limit(tiny, requests_per_minute=60, tokens_per_minute=6000)
    headers = (await ask(tiny)).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("60", "59")
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("6000", "5972")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_beyond_a_limit_gets_openais_error(tiny: TinyServer, *, stream: bool) -> None:
    await limit(tiny, requests_per_minute=1)
    await ask(tiny)
    error = await refused(tiny, stream=stream)
    assert (error.code, error.type, error.response.headers["retry-after"]) == ("rate_limit_exceeded", "requests", "60")
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert "key anonymous" in error.message
    assert "requests per minute: limit 1, used 1" in error.message
