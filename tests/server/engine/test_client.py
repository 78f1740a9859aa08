"""Requests and their neighbours when a version computes NaN or infinite values."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from loramux_adapters.models import VersionId, VersionState
from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

BASE = ""
"""The fake engine's name of the base in `corrupt`."""
pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


def state_of(tiny: TinyServer, version: str) -> tuple[VersionState, str | None]:
    record = tiny.server.adapter_service.resolver.version(version)
    assert record is not None
    return record.state, record.reason


async def until_left(tiny: TinyServer, version: str) -> None:
    while version in tiny.engine.loaded.values():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_corrupt_answer_becomes_an_error_and_its_version_is_quarantined(
    shared: TinyServer, stream: bool
) -> None:
    name, neighbour = f"corrupt-{stream}", f"neighbour-{stream}"
    version, other = await shared.add(name), await shared.add(neighbour, seed=1)
    shared.engine.corrupt.add(version)
    for model in (name, name, version):  # it is found once, and refused from then on
        with pytest.raises(openai.APIStatusError) as caught:
            await shared.chat(model, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (503, "adapter_quarantined")
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert state_of(shared, version) == (VersionState.QUARANTINED, "it computed NaN or infinite values")
    await until_left(shared, version)
    assert not shared.engine.running
    assert (await shared.chat(neighbour)).choices[0].message.content.startswith(f"[{other}]"[:10])
    assert (await shared.chat("tiny")).model == "tiny"


async def test_a_stream_that_becomes_corrupt_ends_with_an_error_and_is_aborted_in_the_engine(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await shared.add("corrupted")
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.001)
    stream = await shared.chat("corrupted", stream=True, max_tokens=200)
    pieces = 0
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pieces += 1
            shared.engine.corrupt.add(version)
    assert caught.value.code == "adapter_quarantined"
    assert 1 <= pieces < 150
    await until_left(shared, version)
    assert not shared.engine.running


async def test_all_requests_on_a_corrupt_version_fail_and_those_on_others_continue(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, neighbour = "all-fail", "continues"
    version, other = await shared.add(name), await shared.add(neighbour, seed=1)
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.002)
    models = (name, neighbour, "tiny", name, neighbour, name)
    asked = [asyncio.create_task(shared.chat(model)) for model in models]
    while shared.engine.running < len(asked):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    shared.engine.corrupt.add(version)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    served = [outcome.model for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert served == [other, "tiny", other]
    failures = [outcome for outcome in outcomes if isinstance(outcome, openai.APIStatusError)]
    assert [(failure.status_code, failure.code) for failure in failures] == [(503, "adapter_quarantined")] * 3


async def test_a_split_keeps_serving_its_sound_version(shared: TinyServer) -> None:
    good, canary = VersionId.parse(await shared.add("split", 1)), VersionId.parse(await shared.add("split", 2))
    await shared.server.adapter_service.set_alias(good.name, {good.digest: 0.5, canary.digest: 0.5}, actor="test")
    shared.engine.corrupt.add(str(canary))
    outcomes = await asyncio.gather(
        *(shared.chat("split", user=f"user-{number}") for number in range(10)), return_exceptions=True
    )
    assert any(isinstance(outcome, openai.APIStatusError) for outcome in outcomes)
    for number in range(10):
        assert (await shared.chat("split", user=f"user-{number}")).model == str(good)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_corrupt_base_is_a_server_error_and_quarantines_no_adapter(
    shared: TinyServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"sound-{stream}"
    version = await shared.add(name)
    monkeypatch.setattr(shared.engine, "corrupt", {BASE})
    with pytest.raises(openai.InternalServerError) as caught:
        await shared.chat("tiny", stream=stream)
    assert (caught.value.status_code, caught.value.type) == (500, "server_error")
    assert state_of(shared, version) == (VersionState.READY, None)
    assert (await shared.chat(name)).model == version
