"""Requests and their neighbours when a version computes NaN or infinite values."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from loramux_adapters.models import VersionId, VersionState
from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

BASE = ""
"""The fake engine's name of the base in `corrupt`."""


@pytest_asyncio.fixture
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


def state_of(tiny: TinyServer, version: str) -> tuple[VersionState, str | None]:
    record = tiny.server.adapter_service.resolver.version(version)
    assert record is not None
    return record.state, record.reason


async def until_left(tiny: TinyServer, version: str) -> None:
    while version in tiny.engine.loaded.values():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_corrupt_answer_becomes_an_error_and_its_version_is_quarantined(tiny: TinyServer, stream: bool) -> None:
    version, other = await tiny.add("tone"), await tiny.add("intent", seed=1)
    tiny.engine.corrupt.add(version)
    for model in ("tone", "tone", version):  # it is found once, and refused from then on
        with pytest.raises(openai.APIStatusError) as caught:
            await tiny.chat(model, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (503, "adapter_quarantined")
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert state_of(tiny, version) == (VersionState.QUARANTINED, "it computed NaN or infinite values")
    await until_left(tiny, version)
    assert not tiny.engine.running
    assert (await tiny.chat("intent")).choices[0].message.content.startswith(f"[{other}]"[:10])
    assert (await tiny.chat("tiny")).model == "tiny"


async def test_a_stream_that_becomes_corrupt_ends_with_an_error_and_is_aborted_in_the_engine(tiny: TinyServer) -> None:
    version = await tiny.add("tone")
    tiny.engine.seconds_per_token = 0.001
    stream = await tiny.chat("tone", stream=True, max_tokens=200)
    pieces = 0
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pieces += 1
            tiny.engine.corrupt.add(version)
    assert caught.value.code == "adapter_quarantined"
    assert 1 <= pieces < 150
    await until_left(tiny, version)
    assert not tiny.engine.running


async def test_all_requests_on_a_corrupt_version_fail_and_those_on_others_continue(tiny: TinyServer) -> None:
    version, other = await tiny.add("tone"), await tiny.add("intent", seed=1)
    tiny.engine.seconds_per_token = 0.002
    asked = [asyncio.create_task(tiny.chat(name)) for name in ("tone", "intent", "tiny", "tone", "intent", "tone")]
    while tiny.engine.running < len(asked):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    tiny.engine.corrupt.add(version)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    served = [outcome.model for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert served == [other, "tiny", other]
    failures = [outcome for outcome in outcomes if isinstance(outcome, openai.APIStatusError)]
    assert [(failure.status_code, failure.code) for failure in failures] == [(503, "adapter_quarantined")] * 3


async def test_a_split_keeps_serving_its_sound_version(tiny: TinyServer) -> None:
    good, canary = VersionId.parse(await tiny.add("tone", 1)), VersionId.parse(await tiny.add("tone", 2))
    await tiny.server.adapter_service.set_alias(good.name, {good.digest: 0.5, canary.digest: 0.5}, actor="test")
    tiny.engine.corrupt.add(str(canary))
    outcomes = await asyncio.gather(
        *(tiny.chat("tone", user=f"user-{number}") for number in range(20)), return_exceptions=True
    )
    assert any(isinstance(outcome, openai.APIStatusError) for outcome in outcomes)
    for number in range(20):
        assert (await tiny.chat("tone", user=f"user-{number}")).model == str(good)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_corrupt_base_is_a_server_error_and_quarantines_no_adapter(tiny: TinyServer, stream: bool) -> None:
    version = await tiny.add("tone")
    tiny.engine.corrupt.add(BASE)
    with pytest.raises(openai.InternalServerError) as caught:
        await tiny.chat("tiny", stream=stream)
    assert (caught.value.status_code, caught.value.type) == (500, "server_error")
    assert state_of(tiny, version) == (VersionState.READY, None)
    assert (await tiny.chat("tone")).model == version
