"""Requests wait for their turn on a server whose engine is busy, and are refused before they start if it is full."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from loramux_server.settings import FairnessSettings
from tests.helpers.tiny_server import TinyServer, small_arguments, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
SEQUENCES = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def busy(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for four sequences at a time, whose queue has room for about three requests."""
    arguments = small_arguments(tiny_base)
    arguments.max_num_seqs = SEQUENCES
    fairness = FairnessSettings(queue_tokens=300)
    async with tiny_server(tmp_path_factory.mktemp("busy"), tiny_base, arguments=arguments, fairness=fairness) as tiny:
        yield tiny


async def occupied(tiny: TinyServer) -> list[asyncio.Task[Any]]:
    """Fill the engine with requests that last until they are cancelled."""
    while tiny.engine.running:  # noqa: ASYNC110 - those of the test before, which were cancelled
        await asyncio.sleep(0.001)
    tiny.engine.seconds_per_token = 3600
    tasks = [asyncio.create_task(tiny.chat("tiny")) for _ in range(SEQUENCES)]
    while tiny.engine.running < SEQUENCES:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    return tasks


async def release(tiny: TinyServer, tasks: list[asyncio.Task[Any]]) -> None:
    tiny.engine.seconds_per_token = 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def metrics(tiny: TinyServer) -> dict[str, float]:
    lines = (await tiny.http.get("/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("loramux"))
    return {name: float(value) for name, value in pairs}


async def waiting(tiny: TinyServer) -> tuple[float, float]:
    """Return how many runs wait, and how many requests were refused so far."""
    values = await metrics(tiny)
    refused = 'loramux_admission_refused_total{priority="default"}'
    return values["loramux_admission_waiting_runs"], values[refused]


async def until_waiting(tiny: TinyServer, runs: int) -> None:
    while (await waiting(tiny))[0] != runs:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)


async def test_a_request_waits_while_the_engine_is_full_and_is_answered_then(busy: TinyServer) -> None:
    tasks = await occupied(busy)
    late = asyncio.create_task(busy.chat("tiny"))
    await until_waiting(busy, 1)
    assert busy.engine.running == SEQUENCES
    await release(busy, tasks)
    assert (await late).choices[0].message.content


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue(busy: TinyServer) -> None:
    tasks = await occupied(busy)
    for stream in (False, True):
        late = asyncio.create_task(busy.chat("tiny", stream=stream))
        await until_waiting(busy, 1)
        late.cancel()
        await until_waiting(busy, 0)
    await release(busy, tasks)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_refuses_before_the_response_starts_and_says_when_to_retry(
    busy: TinyServer, stream: bool
) -> None:
    tasks = await occupied(busy)
    refused = (await waiting(busy))[1]
    late = [asyncio.create_task(busy.chat("tiny", stream=stream)) for _ in range(30)]
    done, left = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
    error = next(iter(done)).exception()
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.code) == (503, "server_overloaded")
    assert int(error.response.headers["retry-after"]) >= 1
    while sum(task.done() for task in late) + (await waiting(busy))[0] < len(late):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.001)
    assert 2 <= (await waiting(busy))[0] <= 8
    assert (await waiting(busy))[1] - refused == sum(task.done() for task in late)
    await release(busy, [*tasks, *left])
    await until_waiting(busy, 0)


async def test_the_wait_counts_as_time_in_the_queue(busy: TinyServer) -> None:
    tasks = await occupied(busy)
    late = asyncio.create_task(busy.chat("tiny"))
    await until_waiting(busy, 1)
    await asyncio.sleep(0.1)
    await release(busy, tasks)
    await late
    values = await metrics(busy)
    assert values['loramux_admission_wait_seconds_sum{priority="default"}'] >= 0.1
    queued = [value for name, value in values.items() if name.startswith("loramux_queue_seconds_sum")]
    assert sum(queued) >= 0.1


async def test_an_adapter_is_not_refused_because_the_base_has_filled_the_queue(busy: TinyServer) -> None:
    await busy.add("other")
    tasks = await occupied(busy)
    late = [asyncio.create_task(busy.chat("tiny")) for _ in range(30)]
    await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
    other = asyncio.create_task(busy.chat("other"))
    while not [line for line in (await waiting(busy),) if line[0] >= 3]:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    await release(busy, tasks)
    assert (await other).choices[0].message.content.startswith("[other")
    await release(busy, late)


async def test_a_reader_who_stops_reading_holds_no_place_in_the_engine(busy: TinyServer) -> None:
    streams = [await busy.chat("tiny", stream=True, max_tokens=200) for _ in range(2 * SEQUENCES)]
    answers = [await asyncio.wait_for(busy.chat("tiny"), 60) for _ in range(2)]
    assert all(answer.choices for answer in answers)
    for stream in streams:
        await stream.close()


async def test_without_fairness_nobody_waits(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> None:
    arguments = small_arguments(tiny_base)
    arguments.max_num_seqs = SEQUENCES
    off = FairnessSettings(enabled=False)
    async with tiny_server(tmp_path_factory.mktemp("off"), tiny_base, arguments=arguments, fairness=off) as tiny:
        tasks = await occupied(tiny)
        late = asyncio.create_task(tiny.chat("tiny"))
        while tiny.engine.running <= SEQUENCES:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
        await release(tiny, [*tasks, late])
