"""What loramux needs of an engine client: the same suite on the fake and on vLLM.

Each test stands for one fragile point of vLLM 0.32: if an upgrade moves it, the test's name says what breaks.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.models import AdapterName, BaseSpec, Digest, VersionId
from loramux_adapters.residency.ports import Lease
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.client import RunAccumulator
from loramux_server.engine.lora_directory import LoraRequests
from loramux_server.metering.usage_record import RunStats
from tests.conftest import RealServer
from tests.helpers.adapter_files import lora_config, lora_tensors, write_adapter
from tests.helpers.tiny_server import small_engine

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT: dict[str, Any] = {"prompt_token_ids": [1, 2, 3, 4, 5]}
VERSION = VersionId(AdapterName("contract"), Digest("0123456789ab"))
NEVER_COLD = Lease(VERSION, cold=False, waited=0.25, release=lambda: None)


@dataclass
class Subject:
    """An engine, and an adapter that it can load under the id VERSION."""

    engine: Any
    base: BaseSpec
    folder: Path

    def resolve(self, name: str, sticky: str | None) -> VersionId | None:
        return VERSION

    def path(self, version: VersionId) -> Path:
        if not self.folder.exists():
            write_adapter(self.folder, lora_config(), lora_tensors(layers=(0,), base=self.base))
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


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def subject(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: ResolvedBase) -> Iterator[Subject]:
    if request.param == "fake":
        base = BaseSpec.from_folder(tiny_base.path, "tiny")
        engine = small_engine(tiny_base)
        engine.seconds_per_token = 0.005
        yield Subject(engine, base, tmp_path / "adapter")
    else:
        real: RealServer = request.getfixturevalue("real")
        yield Subject(real.engine, real.base, tmp_path / "adapter")


async def test_a_stream_of_deltas_adds_up_to_what_was_asked_for(subject: Subject) -> None:
    outputs, stats = await subject.run(RequestOutputKind.DELTA, "delta")
    assert len(outputs) > 1
    assert (stats.input_tokens, stats.output_tokens, stats.finish_reason) == (5, 6, "length")


async def test_a_plain_request_yields_only_its_end_with_the_same_statistics(subject: Subject) -> None:
    outputs, stats = await subject.run(RequestOutputKind.FINAL_ONLY, "plain")
    assert len(outputs) == 1
    assert (stats.input_tokens, stats.output_tokens, stats.finish_reason) == (5, 6, "length")


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY])
async def test_the_tokens_of_all_choices_are_counted(subject: Subject, kind: RequestOutputKind) -> None:
    _, stats = await subject.run(kind, f"choices-{kind}", n=3, temperature=1.0)
    assert (stats.input_tokens, stats.output_tokens, stats.sequences) == (5, 18, 3)


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY])
async def test_the_engines_timestamps_are_in_order_and_follow_the_wait_for_the_lease(
    subject: Subject, kind: RequestOutputKind
) -> None:
    _, stats = await subject.run(kind, f"times-{kind}")
    assert stats.first_token is not None
    assert stats.last_token is not None
    assert NEVER_COLD.waited < stats.first_token < stats.last_token
    assert 0 <= stats.queue < stats.first_token
    assert not stats.corrupted


async def test_a_closed_stream_leaves_what_it_had_and_the_engine_goes_on(subject: Subject) -> None:
    params = SamplingParams(max_tokens=200, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    accumulator = RunAccumulator(PROMPT, params)
    async with aclosing(subject.engine.generate(PROMPT, params, "closed")) as stream:
        async for output in stream:
            accumulator.add(output)
            break
    stats = accumulator.stats(None)
    assert 1 <= stats.output_tokens < 200
    assert stats.finish_reason is None
    assert (await subject.run(RequestOutputKind.DELTA, "after"))[1].output_tokens == 6


async def test_a_cancelled_plain_request_leaves_its_input(subject: Subject) -> None:
    params = SamplingParams(max_tokens=200, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
    accumulator = RunAccumulator(PROMPT, params)

    async def consume() -> None:
        async for output in subject.engine.generate(PROMPT, params, "cancelled"):
            accumulator.add(output)

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert accumulator.stats(None).input_tokens == 5


async def test_what_the_loader_loads_is_in_host_memory_and_what_it_unloads_is_not(subject: Subject) -> None:
    requests = LoraRequests(subject, subject.base.name)
    number = requests.of(VERSION).lora_int_id + 1_000_000  # the shared engine has adapters of its own
    requests.of(VERSION).lora_int_id = number
    loader = EngineLoader(subject.engine, requests, lambda _: None)
    await loader.load(VERSION)
    assert number in await subject.engine.list_loras()
    await loader.unload(VERSION)
    assert number not in await subject.engine.list_loras()


async def test_it_says_that_it_is_alive_and_admits_requests(subject: Subject) -> None:
    assert not subject.engine.errored
    subject.engine.check_admission(1)
    await subject.engine.check_health()
    assert "generate" in await subject.engine.get_supported_tasks()


async def test_log_probabilities_of_a_prompt_do_not_end_the_engine_when_others_run(subject: Subject) -> None:
    """On a CPU with adapters they do in vLLM 0.32, because its head's product counts requests and not tokens."""
    options: dict[str, Any] = {"kind": RequestOutputKind.FINAL_ONLY, "prompt_logprobs": 0}
    runs = await asyncio.gather(*(subject.run(name=f"prompt-logprobs-{number}", **options) for number in range(3)))
    for (output,), _ in runs:
        assert [set(choices) for choices in output.prompt_logprobs[1:]] == [{2}, {3}, {4}, {5}]
