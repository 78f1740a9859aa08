"""The engine's limit of ranks grows while it runs: the behaviour of vLLM's private names that this relies on.

Those of a model runner run on vLLM's V1 runner, and on its V2 runner with a GPU's kernels, interpreted.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
from safetensors.numpy import load_file, save_file

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.models import VersionId
from loramux_server.engine import rank_limit
from loramux_server.engine.rank_limit import RankLimit, can_grow
from tests.conftest import RealServer
from tests.helpers.engine_bench import LONG_ANSWER, MAX_LORAS, EngineBench, engine_bench, tokens

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

START = 16
"""The limit of the shared engine."""


@pytest_asyncio.fixture(loop_scope="session")
async def bench(real: RealServer, tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with engine_bench(real, tmp_path) as bench:
        yield bench
        await bench.engine.collective_rpc("set_max_rank", None, (START,), {})


@pytest.fixture
def limit(bench: EngineBench) -> RankLimit:
    return RankLimit(bench.engine, START, grows=can_grow(bench.engine))


async def loaded(bench: EngineBench, *versions: VersionId) -> list[list[tuple[int, float]]]:
    """Load the versions, and return the answer of each."""
    for version in versions:
        await bench.loader.load(version)
    return [await bench.ask(version) for version in versions]


async def test_the_engine_can_grow_because_nothing_is_compiled_on_a_cpu(bench: EngineBench, limit: RankLimit) -> None:
    assert can_grow(bench.engine)
    assert (limit.current, limit.maximum) == (START, 512)


@pytest.mark.cuda_path
async def test_adapters_answer_as_before_after_the_limit_has_grown(bench: EngineBench, limit: RankLimit) -> None:
    small = [bench.version(f"small-{seed}", seed=seed) for seed in range(2)]
    before = [*await loaded(bench, *small), await bench.ask(None)]
    await limit.ensure(64)
    assert limit.current == 64
    large = bench.version("large", seed=9, rank=64)
    (of_large,) = await loaded(bench, large)
    after = [await bench.ask(version) for version in (*small, None)]
    assert [tokens(answer) for answer in after] == [tokens(answer) for answer in before]
    for old, new in zip(before, after, strict=True):
        assert [value for _, value in new] == pytest.approx([value for _, value in old], abs=1e-4)
    assert tokens(of_large) not in [tokens(answer) for answer in after]
    assert await bench.ask(large) == of_large


@pytest.mark.cuda_path
async def test_running_requests_go_on_while_the_limit_grows(bench: EngineBench, limit: RankLimit) -> None:
    first, second = bench.version("first", seed=1), bench.version("second", seed=2)
    await loaded(bench, first, second)
    alone = [tokens(await bench.ask(version, 10)) for version in (first, second)]
    running = [asyncio.create_task(bench.ask(version, LONG_ANSWER)) for version in (first, second)]
    await asyncio.sleep(0.05)
    await limit.ensure(32)
    await limit.ensure(64)
    assert not any(task.done() for task in running)
    answers = await asyncio.gather(*running)  # later tokens depend on the order of sums, which batches change
    assert [tokens(answer)[:10] for answer in answers] == alone


@pytest.mark.cuda_path
async def test_a_load_that_the_growth_interrupts_is_completed(bench: EngineBench, limit: RankLimit) -> None:
    versions = [bench.version(f"tone-{seed}", seed=seed) for seed in range(3)]
    loading = asyncio.create_task(loaded(bench, *versions))
    for rank in (32, 64):
        await asyncio.sleep(0.03)
        await limit.ensure(rank)
    answers = await loading
    assert [await bench.ask(version) for version in versions] == answers


async def test_growth_frees_the_former_slots(bench: EngineBench) -> None:
    """How many of the slots were written to, and so take memory, differs between rounds; what leaks adds up."""
    worker = max(psutil.Process().children(recursive=True), key=lambda process: process.memory_info().rss)
    used, slots = [], 0
    for _ in range(4 * MAX_LORAS):
        for rank in (512, START):
            await bench.engine.collective_rpc("set_max_rank", None, (rank,), {})
            await loaded(bench, version := bench.version("small"))  # touches the memory of its slot
            await bench.loader.unload(version)
            ((more, _),) = await bench.engine.collective_rpc("growth_bytes", None, (2 * rank,), {})
            slots = max(slots, more)
        memory = worker.memory_full_info()
        used.append(memory.rss + memory.swap)
    assert used[-1] - used[0] < 2 * slots


@pytest.mark.cuda_path
async def test_all_ranks_of_a_large_adapter_count(bench: EngineBench, limit: RankLimit) -> None:
    """The last 8 of 64 ranks are those of an adapter of rank 8, and the others are zeros."""
    small = bench.version("small", seed=5)
    (expected,) = await loaded(bench, small)
    large = bench.version("large", rank=64)
    tensors = {}
    for name, tensor in load_file(bench.path(small) / WEIGHTS_FILE).items():
        is_a = "lora_A" in name
        tensors[name] = np.zeros((64, tensor.shape[1]) if is_a else (tensor.shape[0], 64), np.float32)
        tensors[name][(slice(56, None), slice(None)) if is_a else (slice(None), slice(56, None))] = tensor
    save_file(tensors, bench.path(large) / WEIGHTS_FILE)
    await limit.ensure(64)
    (found,) = await loaded(bench, large)
    assert tokens(found) == tokens(expected)
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-2)


@pytest.mark.cuda_path
async def test_a_rank_that_memory_does_not_allow_is_refused_with_rank_limit_and_setting(
    bench: EngineBench, limit: RankLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_limit, "MAX_MEMORY_SHARE", 1e-9)
    with pytest.raises(InvalidAdapter) as caught:
        await limit.ensure(300)
    assert "LORAMUX_ENGINE__MAX_LORA_RANK" in caught.value.message
    assert (caught.value.expected, caught.value.found, limit.current) == ("at most 16", 300, START)
    assert tokens(await bench.ask(None))
