"""vLLM's sleep, as far as an engine without a GPU has it: what it does with requests, and that answers stay the same.

A worker on a CPU frees nothing; its part is in tests/server/engine/worker/test_sleep.py.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loramux_server.engine.admission import EngineAdmission
from loramux_server.engine.sleep import EngineSleep
from tests.conftest import RealServer
from tests.helpers.engine_bench import EngineBench, engine_bench, tokens

pytestmark = [pytest.mark.engine, pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def bench(real: RealServer, tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with engine_bench(real, tmp_path) as bench:
        yield bench


@pytest.fixture
def sleep(bench: EngineBench) -> EngineSleep:
    return EngineSleep(bench.engine, EngineAdmission())


async def test_adapters_and_the_base_answer_as_before_a_sleep(bench: EngineBench, sleep: EngineSleep) -> None:
    versions = [bench.version(f"asleep-{seed}", seed=seed) for seed in range(2)]
    for version in versions:
        await bench.loader.load(version)
    before = [await bench.ask(version) for version in (*versions, None)]
    await sleep.free()
    assert await bench.engine.is_sleeping()
    await bench.engine.collective_rpc("refresh_after_sleep")  # a GPU's worker does it by itself
    (in_slots,) = await bench.engine.collective_rpc("adapters_in_slots")
    assert in_slots == []
    await sleep.restore()
    assert not await bench.engine.is_sleeping()
    after = [await bench.ask(version) for version in (*versions, None)]
    assert [tokens(answer) for answer in after] == [tokens(answer) for answer in before]
    (in_slots,) = await bench.engine.collective_rpc("adapters_in_slots")
    assert len(in_slots) == len(versions)


async def test_a_run_that_slipped_in_ends_before_the_sleep_and_a_later_one_after_it(bench: EngineBench) -> None:
    running = asyncio.create_task(bench.ask(None, 40))
    while not bench.engine.output_processor.get_num_unfinished_requests():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    await bench.engine.sleep(level=1, mode="wait")
    assert len(await asyncio.wait_for(running, 5)) == 40
    later = asyncio.create_task(bench.ask(None, 8))
    await asyncio.sleep(0.3)
    assert not later.done()
    assert await bench.engine.wake_up()
    assert tokens(await later) == tokens(running.result())[:8]


async def test_a_load_can_be_prepared_after_a_sleep(bench: EngineBench, sleep: EngineSleep) -> None:
    await sleep.free()
    await sleep.restore()
    version = bench.version("woken", seed=5)
    await bench.loader.load(version)
    assert tokens(await bench.ask(version)) != tokens(await bench.ask(None))
