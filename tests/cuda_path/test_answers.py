"""Answers of the engine: of mixed batches, after each way to load an adapter, and next to loads and cancellations."""

import asyncio
from typing import Any

import pytest

from loramux_adapters.models import AdapterName, Digest, VersionId
from tests.helpers.engine_bench import MAX_CPU_LORAS, MAX_LORAS, EngineBench, tokens

pytestmark = [pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]

Scored = list[tuple[int, float]]
NATS = 0.02
"""The largest difference of a log-probability between batches of other shapes, in float16."""


def assert_equal(found: Scored, expected: Scored) -> None:
    assert tokens(found) == tokens(expected)
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=NATS)


async def call(bench: EngineBench, method: str, *args: Any) -> list[Any]:
    results: list[Any] = await bench.engine.collective_rpc(method, None, args, {})
    return results


async def test_a_mixed_batch_answers_as_single_requests_do(bench: EngineBench) -> None:
    all_linear, packed = bench.version("all-linear", seed=1), bench.version("qv", seed=2, modules=("q_proj", "v_proj"))
    for version in (all_linear, packed):
        await bench.loader.load(version)
    routes = (None, all_linear, packed, packed, None, all_linear)
    alone = [await bench.ask(route) for route in routes]
    assert len({tuple(tokens(answer)) for answer in alone}) == 3
    for found, expected in zip(await bench.together(*map(bench.ask, routes)), alone, strict=True):
        assert_equal(found, expected)


async def test_more_adapters_than_slots_are_answered_as_alone_and_evictions_change_nothing(bench: EngineBench) -> None:
    versions = [bench.version(f"tone-{seed}", seed=seed) for seed in range(MAX_CPU_LORAS + 1)]
    alone = {}
    for version in versions:
        await bench.loader.load(version)
        alone[version] = await bench.ask(version)
        await bench.loader.unload(version)
    for first in range(2):
        resident = versions[first : first + MAX_CPU_LORAS]
        for version in resident:
            await bench.loader.load(version)
        answers = await bench.together(*map(bench.ask, resident))
        for version, found in zip(resident, answers, strict=True):
            assert_equal(found, alone[version])
        assert len(await bench.loader.slots()) == MAX_LORAS
        for version in resident:
            await bench.loader.unload(version)


async def test_an_adapter_of_few_modules_has_nothing_of_the_one_that_had_its_slot(bench: EngineBench) -> None:
    few, larger = bench.version("few", seed=1, modules=("o_proj",)), [bench.version(str(n), seed=n) for n in (2, 3)]
    await bench.loader.load(few)
    expected = await bench.ask(few)
    await bench.loader.unload(few)
    for version in larger:  # in all slots
        await bench.loader.load(version)
        await bench.ask(version)
    await bench.loader.load(few)
    assert few in await bench.loader.slots()
    assert await bench.ask(few) == expected


async def test_an_adapter_loaded_next_to_a_stream_answers_as_if_vllm_had_loaded_it_alone(bench: EngineBench) -> None:
    streaming, loaded = bench.version("streaming", seed=1), bench.version("loaded", seed=2)
    assert await bench.engine.add_lora(bench.requests.of(loaded))
    expected = await bench.ask(loaded)
    await bench.loader.unload(loaded)
    await bench.loader.load(streaming)
    undisturbed = await bench.ask(streaming, 40)
    stream = asyncio.create_task(bench.ask(streaming, 40))
    await asyncio.sleep(0.05)
    again = VersionId(AdapterName("loaded"), Digest("ba9876543210"))  # another id: nothing is cached
    await bench.loader.load(again)
    assert not stream.done()
    assert await bench.loader.slots() == {streaming, again}
    assert await stream == undisturbed
    assert await bench.ask(again) == expected


async def test_a_load_takes_no_slot_of_a_running_request(bench: EngineBench) -> None:
    """vLLM would fill it again in the next step, which would wait for that."""
    running, loaded = [bench.version(name, seed=seed) for seed, name in enumerate(("a", "b"))], bench.version("c")
    for version in running:
        await bench.loader.load(version)
    streams = [asyncio.create_task(bench.ask(version, 40)) for version in running]
    await asyncio.sleep(0.3)
    request = bench.requests.of(loaded)
    load = (request.lora_name, request.lora_int_id, request.lora_path)
    await bench.engine.collective_rpc("start_load", None, load, {"throttle": False, "seconds": 60.0})
    assert await call(bench, "commit_load", request.lora_int_id, 0.0) == [True]  # there is nothing to fill
    assert not any(stream.done() for stream in streams)
    assert await bench.loader.slots() == set(running)
    await asyncio.gather(*streams)


async def test_a_load_that_is_cancelled_at_any_step_leaves_nothing(bench: EngineBench) -> None:
    version, other = bench.version("tone", seed=1), bench.version("other", seed=2)
    request = bench.requests.of(version)
    await bench.loader.load(other)
    expected = [await bench.ask(None), await bench.ask(other)]
    for steps in range(4):
        (prepared,) = await bench.engine.collective_rpc(
            "start_load",
            None,
            (request.lora_name, request.lora_int_id, request.lora_path),
            {"throttle": False, "seconds": 0.0 if steps == 0 else 60.0},
        )
        assert prepared or steps == 0
        for step in range(steps):
            assert await call(bench, "commit_load" if step == 0 else "fill_slot", request.lora_int_id, 0.0) == [False]
        await call(bench, "cancel_load", request.lora_int_id)
        assert await bench.in_memory() == {bench.requests.of(other).lora_int_id}
        assert await bench.loader.slots() == {other}
        assert [await bench.ask(None), await bench.ask(other)] == expected
    await bench.loader.load(version)
    assert tokens(await bench.ask(version)) not in [tokens(answer) for answer in expected]


async def test_a_cancelled_request_changes_no_other_answer_and_frees_its_slot(bench: EngineBench) -> None:
    versions = [bench.version(f"tone-{seed}", seed=seed) for seed in range(3)]
    cancelled, kept, later = versions
    for version in versions:
        await bench.loader.load(version)
    expected = [await bench.ask(version, 20) for version in (kept, later)]
    running = asyncio.create_task(bench.ask(cancelled, 200))
    answer = asyncio.create_task(bench.ask(kept, 20))
    await asyncio.sleep(0.5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert_equal(await answer, expected[0])
    assert await bench.ask(later, 20) == expected[1]


async def test_prompt_log_probabilities_are_those_of_each_requests_adapter_however_they_are_cut(
    bench: EngineBench,
) -> None:
    """GPU-3: of a step's prompts, vLLM computes the logits in pieces, across requests."""
    first, second = bench.version("first", seed=1), bench.version("second", seed=2)
    for version in (first, second):
        await bench.loader.load(version)
    routes = (None, first, second, None)

    async def prompt_logprobs(route: VersionId | None) -> list[float]:
        output = await bench.generate(route, 1, prompt=PROMPT, prompt_logprobs=0)
        return [entry[token].logprob for token, entry in zip(PROMPT[1:], output.prompt_logprobs[1:], strict=True)]

    alone = [await prompt_logprobs(route) for route in routes]
    assert all(abs(a - b) > NATS for a, b in zip(alone[0], alone[1], strict=True))
    try:
        await call(bench, "set_logits_chunk", 7)
        together = await bench.together(*map(prompt_logprobs, routes))
    finally:
        await call(bench, "set_logits_chunk", 1024)
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=NATS)


PROMPT = list(range(40, 52))
