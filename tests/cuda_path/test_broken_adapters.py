"""Adapters that compute NaN or infinite values change no other answer, and neither does what they leave behind.

They are loaded by vLLM itself, which checks no values: intake and our loading refuse such adapters.
"""

import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from vllm.outputs import RequestOutput

from loramux_adapters.models import VersionId
from tests.conftest import RealServer
from tests.helpers.engine_bench import EngineBench, tokens

pytestmark = [pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]

VALUES = {"NaN": math.nan, "infinite": math.inf, "overflowing": 6e4}
"""Of all matrices; the products of the last overflow float16, whose largest value is 65,504."""


async def add_by_vllm(bench: EngineBench, version: VersionId) -> VersionId:
    assert await bench.engine.add_lora(bench.requests.of(version))
    return version


def is_corrupted(output: RequestOutput) -> bool:
    return bool(output.metrics and output.metrics.is_corrupted)


def token_ids(output: RequestOutput) -> list[int]:
    return list(output.outputs[0].token_ids)


async def call(bench: EngineBench, method: str, *args: object) -> None:
    await bench.engine.collective_rpc(method, None, args, {})


async def test_our_loading_refuses_values_that_are_finite_in_the_file_and_not_in_the_engine(bench: EngineBench) -> None:
    version = bench.version("large", fill=7e4)
    with pytest.raises(Exception, match="NaN or infinite"):
        await bench.loader.load(version)
    assert await bench.in_memory() == set()


@pytest_asyncio.fixture(loop_scope="session")
async def dirty(real: RealServer, bench: EngineBench) -> AsyncIterator[EngineBench]:
    """The engine, with NaN in all blocks of its KV cache; they are cleaned after the test."""
    await real.engine.reset_prefix_cache()
    await call(bench, "fill_kv_cache", math.nan)
    yield bench
    await call(bench, "set_zeroing", True)
    await call(bench, "fill_kv_cache", 0.0)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_an_adapter_of_such_values_changes_no_answer_of_its_batch_and_leaves_nothing(
    bench: EngineBench, value: float
) -> None:
    sound, later = bench.version("sound", seed=1), bench.version("later", seed=2)
    await bench.loader.load(later)
    expected_later = await bench.ask(later)
    await bench.loader.unload(later)
    await bench.loader.load(sound)
    expected = [await bench.ask(None), await bench.ask(sound)]
    broken = await add_by_vllm(bench, bench.version("broken", fill=value))
    batch = await bench.together(bench.generate(None), bench.generate(broken), bench.generate(sound))
    assert [is_corrupted(output) for output in batch] == [False, True, False]
    assert [token_ids(batch[0]), token_ids(batch[2])] == [tokens(answer) for answer in expected]
    await bench.loader.unload(broken)
    assert (await bench.engine.collective_rpc("dirty_blocks", None, (), {}))[0] > 0  # what later requests may get
    assert [await bench.ask(None), await bench.ask(sound)] == expected
    await bench.loader.load(later)  # into the broken adapter's slot
    assert await bench.loader.slots() == {sound, later}
    assert await bench.ask(later) == expected_later


async def test_a_request_is_right_whatever_earlier_ones_left_in_its_blocks(dirty: EngineBench) -> None:
    sound = dirty.version("sound", seed=1)
    await dirty.loader.load(sound)
    outputs = [await dirty.generate(route) for route in (None, sound)]
    assert not any(map(is_corrupted, outputs))
    await call(dirty, "fill_kv_cache", 0.0)
    assert [token_ids(output) for output in outputs] == [tokens(await dirty.ask(route)) for route in (None, sound)]


async def test_after_a_sleep_lost_slots_and_blocks_are_made_again(dirty: EngineBench) -> None:
    """vLLM's sleep itself needs a GPU: this is what it leaves."""
    version = dirty.version("sound", seed=1)
    await dirty.loader.load(version)
    expected = [tokens(await dirty.ask(route)) for route in (None, version)]
    await call(dirty, "fill_slots", math.nan)
    assert is_corrupted(await dirty.generate(version))
    await call(dirty, "fill_kv_cache", math.nan)
    await call(dirty, "refresh_after_sleep")
    assert await dirty.engine.collective_rpc("dirty_blocks", None, (), {}) == [0]
    outputs = [await dirty.generate(route) for route in (None, version)]
    assert not any(map(is_corrupted, outputs))
    assert [token_ids(output) for output in outputs] == expected


async def test_without_zeroing_of_blocks_what_an_adapter_left_corrupts_the_base(dirty: EngineBench) -> None:
    """The control of the two tests above: as in stock vLLM. If it fails, attention needs no zeroing any more."""
    await call(dirty, "set_zeroing", False)
    assert is_corrupted(await dirty.generate(None))
