"""Loads adapters while the real engine runs: the behaviour of vLLM's private names that loramux relies on.

If an upgrade of vLLM changes one, the name of the failing test says what breaks. They run on vLLM's V1 model runner,
and on its V2 runner with a GPU's kernels, interpreted.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loramux_adapters.errors import StoreError
from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.engine.adapter_loader import EngineLoader
from tests.conftest import RealServer
from tests.helpers.engine_bench import LONG_ANSWER, MAX_CPU_LORAS, MAX_LORAS, EngineBench, engine_bench, tokens

pytestmark = [pytest.mark.engine, pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def bench(real: RealServer, tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with engine_bench(real, tmp_path) as bench:
        yield bench


async def test_an_adapter_answers_as_if_vllm_itself_had_loaded_it(bench: EngineBench) -> None:
    version = bench.version("tone")
    await bench.engine.add_lora(bench.requests.of(version))
    expected = await bench.ask(version)
    assert tokens(expected) != tokens(await bench.ask(None))
    await bench.loader.unload(version)
    again = VersionId(AdapterName("tone"), Digest("ba9876543210"))  # another id: nothing is cached
    await bench.loader.load(again)
    found = await bench.ask(again)
    assert tokens(found) == tokens(expected)
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)


async def test_a_loaded_adapter_is_in_host_memory_and_in_a_slot(bench: EngineBench) -> None:
    version = bench.version("tone")
    await bench.loader.load(version)
    assert await bench.in_memory() == {bench.requests.of(version).lora_int_id}
    assert await bench.loader.slots() == {version}
    await bench.loader.unload(version)
    assert await bench.in_memory() == set()
    assert await bench.loader.slots() == set()


async def test_the_engine_reports_running_streams(bench: EngineBench) -> None:
    unfinished = bench.engine.output_processor.get_num_unfinished_requests
    asking = asyncio.create_task(bench.ask(None, 20))
    async with asyncio.timeout(10):
        while not unfinished():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
    await asking
    assert unfinished() == 0


@pytest.mark.parametrize("name", [None, "kept"])
async def test_other_answers_are_unchanged_while_twenty_adapters_are_loaded_and_unloaded(
    bench: EngineBench, name: str | None
) -> None:
    kept = bench.version("kept", seed=1)
    await bench.loader.load(kept)
    route = kept if name else None
    expected, loading, answers = await bench.ask(route, 40), asyncio.create_task(load_and_unload(bench, 20)), []
    while not loading.done():  # one at a time: a batch of another shape sums in another order
        answers.append(await bench.ask(route, 40))
    await loading
    assert answers
    assert all(answer == expected for answer in answers)


async def load_and_unload(bench: EngineBench, count: int) -> None:
    for number in range(count):
        version = bench.version(f"other-{number}", seed=number, rank=16)
        await bench.loader.load(version)
        assert len(await bench.in_memory()) == 2
        await bench.loader.unload(version)


async def test_a_load_takes_no_slot_from_a_running_request(bench: EngineBench) -> None:
    first, second, third = (bench.version(name, seed=seed) for seed, name in enumerate(("first", "second", "third")))
    await bench.loader.load(first)
    await bench.loader.load(second)
    running = [asyncio.create_task(bench.ask(version, LONG_ANSWER)) for version in (first, second)]
    await asyncio.sleep(0.3)
    await bench.loader.load(third)
    in_slots = await bench.loader.slots()
    assert not any(task.done() for task in running)
    assert in_slots == {first, second}
    await asyncio.gather(*running)
    assert tokens(await bench.ask(third)) != tokens(await bench.ask(None))  # now vLLM assigns a slot
    assert third in await bench.loader.slots()


async def test_a_load_takes_the_slot_of_an_idle_adapter(bench: EngineBench) -> None:
    versions = [bench.version(f"tone-{seed}", seed=seed) for seed in range(MAX_CPU_LORAS)]
    answers = []
    for version in versions:
        await bench.loader.load(version)
        answers.append(await bench.ask(version))
    await bench.ask(None)
    assert await bench.loader.slots() == set(versions[-MAX_LORAS:])
    assert [tokens(await bench.ask(version)) for version in versions] == [tokens(answer) for answer in answers]


def truncated(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize("broken", [truncated, without_config, without_weights])
async def test_a_failed_load_leaves_nothing_and_the_engine_keeps_running(bench: EngineBench, broken: Any) -> None:
    version = bench.version("tone")
    broken(bench.path(version))
    with pytest.raises(Exception):  # noqa: B017 - vLLM raises many types
        await bench.loader.load(version)
    assert await bench.in_memory() == set()
    assert await bench.loader.slots() == set()
    bench.version("tone")
    await bench.loader.load(version)
    assert tokens(await bench.ask(version)) != tokens(await bench.ask(None))


async def test_weights_changed_on_disk_are_never_loaded(bench: EngineBench) -> None:
    def corrupt(_: VersionId) -> None:
        raise StoreError("not what was accepted")

    version = bench.version("tone")
    with pytest.raises(StoreError):
        await EngineLoader(bench.engine, bench.requests, corrupt).load(version)
    assert await bench.in_memory() == set()


async def test_a_cancelled_load_leaves_nothing(bench: EngineBench) -> None:
    version = bench.version("tone", rank=16)
    loading = asyncio.create_task(bench.loader.load(version))
    await asyncio.sleep(0.001)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert await bench.in_memory() == set()
    await bench.loader.load(version)
    assert await bench.loader.slots() == {version}
