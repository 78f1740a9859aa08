"""The limit of ranks grows with the adapters, as far as memory allows; tests/contract has the real engine."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.config import CompilationMode, CUDAGraphMode

from loramux_adapters.errors import EngineAsleep, InvalidAdapter
from loramux_server.engine.admission import EngineAdmission, EngineState
from loramux_server.engine.rank_limit import RankLimit, can_grow


class Workers:
    """Workers whose slots take 1000 bytes per rank."""

    def __init__(self, free: int = 10**9, fails_at: int | None = None) -> None:
        self.free, self.fails_at = free, fails_at
        self.ranks = [16]

    async def collective_rpc(self, method: str, _timeout: None, args: tuple[int], _kwargs: dict[str, Any]) -> list[Any]:
        await asyncio.sleep(0)
        (rank,) = args
        if method == "growth_bytes":
            return [((rank - self.ranks[-1]) * 1000, free) for free in (self.free, 10**9)]
        assert method == "set_max_rank"
        self.ranks.append(rank)
        if rank == self.fails_at:
            raise MemoryError
        return [None] * 2


def limit(workers: Workers, *, grows: bool = True) -> RankLimit:
    return RankLimit(workers, 16, grows=grows)


async def refusal(limit: RankLimit, rank: int) -> InvalidAdapter:
    with pytest.raises(InvalidAdapter) as caught:
        await limit.ensure(rank)
    assert "LORAMUX_ENGINE__MAX_LORA_RANK" in caught.value.message
    assert caught.value.found == rank
    return caught.value


async def test_ranks_within_the_limit_change_nothing() -> None:
    await limit(workers := Workers()).ensure(16)
    assert workers.ranks == [16]


async def test_the_limit_grows_to_the_lowest_that_admits_the_adapter() -> None:
    growing = limit(workers := Workers())
    for rank in (33, 64, 17, 300):
        await growing.ensure(rank)
    assert workers.ranks == [16, 64, 320]
    assert growing.current == 320


async def test_the_limit_does_not_grow_while_the_engine_is_asleep() -> None:
    admission, workers = EngineAdmission(), Workers()
    growing = RankLimit(workers, 16, grows=True, use=admission.use)
    for state in (EngineState.DRAINING, EngineState.ASLEEP):
        admission.move(state)
    with pytest.raises(EngineAsleep):
        await growing.ensure(64)
    await growing.ensure(16)
    assert workers.ranks == [16]


async def test_a_limit_that_was_set_does_not_grow() -> None:
    fixed = limit(workers := Workers(), grows=False)
    assert fixed.maximum == 16
    assert (await refusal(fixed, 17)).expected == "at most 16"
    assert workers.ranks == [16]


async def test_ranks_above_what_vllm_allows_are_refused() -> None:
    assert (await refusal(limit(Workers()), 513)).expected == "at most 512"


async def test_growth_that_takes_more_than_half_of_the_free_memory_is_refused() -> None:
    growing = limit(workers := Workers(free=2 * 48_000 - 1))
    assert "0.0 GB" in (await refusal(growing, 64)).message
    assert workers.ranks == [16]
    await growing.ensure(32)
    assert workers.ranks == [16, 32]


async def test_growth_that_fails_is_undone() -> None:
    growing = limit(workers := Workers(fails_at=64))
    await refusal(growing, 64)
    assert workers.ranks == [16, 64, 16]
    assert growing.current == 16


async def test_two_adapters_at_once_grow_the_limit_once() -> None:
    growing = limit(workers := Workers())
    await asyncio.gather(*(growing.ensure(64) for _ in range(5)))
    assert workers.ranks == [16, 64]


def engine(mode: CompilationMode, graphs: CUDAGraphMode, lora: object = True) -> Any:
    compilation = SimpleNamespace(mode=mode, cudagraph_mode=graphs)
    return SimpleNamespace(vllm_config=SimpleNamespace(lora_config=lora, compilation_config=compilation))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (engine(CompilationMode.NONE, CUDAGraphMode.NONE), True),
        (engine(CompilationMode.NONE, CUDAGraphMode.FULL), False),
        (engine(CompilationMode.VLLM_COMPILE, CUDAGraphMode.NONE), False),
        (engine(CompilationMode.NONE, CUDAGraphMode.NONE, lora=None), False),
        (SimpleNamespace(), False),
    ],
)
def test_slots_of_a_compiled_or_captured_model_are_fixed(found: Any, expected: bool) -> None:
    assert can_grow(found) is expected
