"""A request is charged for its response's own usage, however the engine computes it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

PRICES = {"base": {"input": 1, "output": 2}, "gpu_hour": 3600}
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that each have an adapter of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, prices=PRICES) as server:
        yield server


async def charged(tiny: TinyServer, adapter: str) -> dict[str, Any]:
    """Return the usage of the first request to this adapter."""
    async with asyncio.timeout(10):
        while True:
            report = (await tiny.http.get("/admin/usage", params={"adapter": adapter})).json()
            if report["total"]:
                found: dict[str, Any] = report["total"]
                assert found["requests"] == 1
                return found
            await asyncio.sleep(0.01)


async def check_charge(tiny: TinyServer, adapter: str, usage: Any) -> None:
    found = await charged(tiny, adapter)
    tokens = found["tokens"]
    assert (tokens["input"], tokens["output"]) == (usage.prompt_tokens, usage.completion_tokens)
    price = 1000 * usage.prompt_tokens + 2000 * usage.completion_tokens
    assert found["cost"]["price_list"]["nanodollars"] == price
    assert found["cost"]["gpu_hour"]["nanodollars"] > 0


async def test_a_beam_search_on_an_adapter_is_charged_for_its_usage(shared: TinyServer) -> None:
    """T11: the prompt is charged once, not once for each beam and step (31 times)."""
    await shared.add("beams")
    answer = await shared.chat("beams", max_tokens=10, n=3, extra_body={"use_beam_search": True})
    assert (len(answer.choices), answer.usage.completion_tokens) == (3, 30)
    await check_charge(shared, "beams", answer.usage)


async def test_the_latency_of_a_beam_search_is_of_the_whole(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.01)
    await shared.add("latent")
    await shared.chat("latent", max_tokens=10, n=2, extra_body={"use_beam_search": True})
    latency = (await charged(shared, "latent"))["latency"]
    assert 0.01 < latency["first_token"]["p50"] < latency["duration"]["p50"] / 2
    assert latency["time_per_output_token"]["p50"] > 0.009


@pytest.mark.parametrize("beams", [False, True])
async def test_a_list_of_prompts_is_charged_for_its_usage(shared: TinyServer, beams: bool) -> None:
    """T11."""
    name = f"prompts-{beams}"
    await shared.add(name)
    answer = await shared.client.completions.create(
        model=name, prompt=["one", "longer two"], max_tokens=7, n=2, extra_body={"use_beam_search": beams}
    )
    assert len(answer.choices) == 4
    await check_charge(shared, name, answer.usage)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices_are_charged_for_their_usage(shared: TinyServer, stream: bool) -> None:
    """T11: `n` choices have the prompt once and each its own tokens."""
    name = f"choices-{stream}"
    await shared.add(name)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await shared.chat(name, n=3, stream=stream, **options)
    usage = [chunk async for chunk in answer][-1].usage if stream else answer.usage
    assert usage.completion_tokens == 60
    await check_charge(shared, name, usage)


async def test_a_cancelled_beam_search_is_charged_for_what_was_generated(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.005)
    await shared.add("left")
    task = asyncio.create_task(shared.chat("left", max_tokens=100, n=2, extra_body={"use_beam_search": True}))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await charged(shared, "left")
    assert found["outcomes"] == {"cancelled": 1}
    assert 0 < found["tokens"]["output"] < 100
    assert 0 < found["tokens"]["input"] < 40


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_request_is_charged_for_what_was_generated_streamed_or_not(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """T10: a plain request that is cancelled is not free."""
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.005)
    name = f"cancelled-{stream}"
    await shared.add(name)

    async def read() -> None:
        answer = await shared.chat(name, max_tokens=100, stream=stream)
        async for _ in answer:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await charged(shared, name)
    assert 3 < found["tokens"]["output"] < 100
    assert found["cost"]["gpu_hour"]["nanodollars"] > 0


async def test_a_request_that_the_engine_never_began_is_charged_for_no_tokens(shared: TinyServer) -> None:
    version = await shared.add("refused")
    shared.engine.refused_loads.add(version)
    await shared.evict()
    with pytest.raises(openai.APIStatusError):
        await shared.chat("refused")
    assert (await charged(shared, "refused"))["tokens"] == {"input": 0, "cached": 0, "output": 0}
