"""The contract of an engine client: the same tests on the fake and on vLLM.

If an upgrade of vLLM changes its behaviour, the name of the failing test says what breaks.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_adapters.residency.ports import Lease
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.client import RunAccumulator
from loramux_server.engine.lora_directory import LoraRequests
from loramux_server.metering.usage_record import RunStats
from tests.conftest import RealServer
from tests.helpers.adapter_files import BASE, lora_config, tensors_for, write_adapter
from tests.helpers.tiny_server import small_engine

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT: dict[str, Any] = {"prompt_token_ids": [1, 2, 3, 4, 5]}
VERSION = VersionId(AdapterName("contract"), Digest("0123456789ab"))
NEVER_COLD = Lease(VERSION, cold=False, waited=0.25, release=lambda: None)


@dataclass
class EngineUnderTest:
    """An engine, and an adapter that it can load as VERSION."""

    engine: Any
    base: BaseDescription
    folder: Path

    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        return VERSION

    def path(self, version: VersionId) -> Path:
        if not self.folder.exists():
            write_adapter(self.folder, lora_config(), tensors_for(self.base, ["q_proj", "v_proj"], [0]))
        return self.folder

    async def run(self, kind: RequestOutputKind, name: str, **options: Any) -> tuple[list[Any], RunStats]:
        params = SamplingParams(
            output_kind=kind, **({"max_tokens": 6, "ignore_eos": True, "temperature": 0.0} | options)
        )
        accumulator, outputs = RunAccumulator(PROMPT, params), []
        async with aclosing(self.engine.generate(PROMPT, params, name)) as stream:
            async for output in stream:
                accumulator.add(output)
                outputs.append(output)
        return outputs, accumulator.stats(NEVER_COLD)


@pytest.fixture(params=["fake", pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.cuda_path])])
def tested(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: ResolvedBase) -> Iterator[EngineUnderTest]:
    if request.param == "fake":
        engine = small_engine(tiny_base)
        engine.seconds_per_token = 0.005
        yield EngineUnderTest(engine, BASE, tmp_path / "adapter")
    else:
        real: RealServer = request.getfixturevalue("real")
        yield EngineUnderTest(real.engine, real.base, tmp_path / "adapter")


async def test_a_stream_of_deltas_adds_up_to_the_requested_tokens(tested: EngineUnderTest) -> None:
    outputs, stats = await tested.run(RequestOutputKind.DELTA, "delta")
    assert len(outputs) > 1
    assert (stats.input_tokens, stats.output_tokens, stats.finish_reason) == (5, 6, "length")


async def test_a_plain_request_yields_only_its_end_with_the_same_statistics(tested: EngineUnderTest) -> None:
    outputs, stats = await tested.run(RequestOutputKind.FINAL_ONLY, "plain")
    assert len(outputs) == 1
    assert (stats.input_tokens, stats.output_tokens, stats.finish_reason) == (5, 6, "length")


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY])
async def test_the_tokens_of_all_choices_are_counted(tested: EngineUnderTest, kind: RequestOutputKind) -> None:
    _, stats = await tested.run(kind, f"choices-{kind}", n=3, temperature=1.0)
    assert (stats.input_tokens, stats.output_tokens, stats.sequences) == (5, 18, 3)


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY])
async def test_the_engines_timestamps_are_in_order_and_follow_the_wait_for_the_lease(
    tested: EngineUnderTest, kind: RequestOutputKind
) -> None:
    _, stats = await tested.run(kind, f"times-{kind}")
    assert stats.first_token is not None
    assert stats.last_token is not None
    assert NEVER_COLD.waited < stats.first_token < stats.last_token
    assert 0 <= stats.queue < stats.first_token
    assert not stats.corrupted


async def test_a_closed_stream_keeps_its_statistics_and_the_engine_keeps_running(tested: EngineUnderTest) -> None:
    params = SamplingParams(max_tokens=200, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    accumulator = RunAccumulator(PROMPT, params)
    async with aclosing(tested.engine.generate(PROMPT, params, "closed")) as stream:
        async for output in stream:
            accumulator.add(output)
            break
    stats = accumulator.stats(None)
    assert 1 <= stats.output_tokens < 200
    assert stats.finish_reason is None
    assert (await tested.run(RequestOutputKind.DELTA, "after"))[1].output_tokens == 6


async def test_the_loader_loads_into_host_memory_and_unloads(tested: EngineUnderTest) -> None:
    requests = LoraRequests(tested, tested.base.name)
    number = requests.of(VERSION).lora_int_id + 1_000_000  # the shared engine has adapters of its own
    requests.of(VERSION).lora_int_id = number
    loader = EngineLoader(tested.engine, requests, lambda _: None)
    await loader.load(VERSION)
    assert number in await tested.engine.list_loras()
    await loader.unload(VERSION)
    assert number not in await tested.engine.list_loras()


async def test_the_engine_reports_health_and_admits_requests(tested: EngineUnderTest) -> None:
    assert not tested.engine.errored
    tested.engine.check_admission(1)
    await tested.engine.check_health()
    assert "generate" in await tested.engine.get_supported_tasks()


async def test_prompt_log_probabilities_do_not_crash_the_engine_while_others_run(tested: EngineUnderTest) -> None:
    """On a CPU with adapters they do in stock vLLM 0.32: its product for the head expects one row per request."""
    options: dict[str, Any] = {"kind": RequestOutputKind.FINAL_ONLY, "prompt_logprobs": 0}
    runs = await asyncio.gather(*(tested.run(name=f"prompt-logprobs-{number}", **options) for number in range(3)))
    for (output,), _ in runs:
        assert [set(choices) for choices in output.prompt_logprobs[1:]] == [{2}, {3}, {4}, {5}]
