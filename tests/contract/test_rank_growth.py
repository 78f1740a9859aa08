"""The engine's limit of ranks grows while it runs: the behaviour of vLLM's private names that this relies on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.models import VersionId
from loramux_server.engine import rank_limit
from loramux_server.engine.rank_limit import RankLimit, can_grow
from tests.conftest import RealServer
from tests.helpers.engine_bench import EngineBench, engine_bench, tokens

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


async def test_running_requests_go_on_while_the_limit_grows(bench: EngineBench, limit: RankLimit) -> None:
    first, second = bench.version("first", seed=1), bench.version("second", seed=2)
    await loaded(bench, first, second)
    alone = [tokens(await bench.ask(version, 10)) for version in (first, second)]
    running = [asyncio.create_task(bench.ask(version, 60)) for version in (first, second)]
    await asyncio.sleep(0.05)
    await limit.ensure(32)
    await limit.ensure(64)
    assert not any(task.done() for task in running)
    answers = await asyncio.gather(*running)  # later tokens depend on the order of sums, which batches change
    assert [tokens(answer)[:10] for answer in answers] == alone


async def test_a_load_that_the_growth_interrupts_is_completed(bench: EngineBench, limit: RankLimit) -> None:
    versions = [bench.version(f"tone-{seed}", seed=seed) for seed in range(3)]
    loading = asyncio.create_task(loaded(bench, *versions))
    for rank in (32, 64):
        await asyncio.sleep(0.03)
        await limit.ensure(rank)
    answers = await loading
    assert [await bench.ask(version) for version in versions] == answers


async def test_growth_frees_the_former_slots(bench: EngineBench) -> None:
    worker = max(psutil.Process().children(recursive=True), key=lambda process: process.memory_info().rss)
    sizes = []
    for rank in (512, START) * 3:
        await bench.engine.collective_rpc("set_max_rank", None, (rank,), {})
        await loaded(bench, version := bench.version("small"))  # touches the memory of its slot
        await bench.loader.unload(version)
        ((more, _),) = await bench.engine.collective_rpc("growth_bytes", None, (2 * rank,), {})
        sizes.append((more // rank, worker.memory_info().rss))
    assert len({per_rank for per_rank, _ in sizes}) == 1
    at_first, at_last = (rss for _, rss in (sizes[1], sizes[-1]))
    assert at_last - at_first < 64 * 2**20


async def test_a_rank_that_memory_does_not_allow_is_refused_with_rank_limit_and_setting(
    bench: EngineBench, limit: RankLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_limit, "MAX_MEMORY_SHARE", 1e-9)
    with pytest.raises(InvalidAdapter) as caught:
        await limit.ensure(300)
    assert "LORAMUX_ENGINE__MAX_LORA_RANK" in caught.value.message
    assert (caught.value.expected, caught.value.found, limit.current) == ("at most 16", 300, START)
    assert tokens(await bench.ask(None))
