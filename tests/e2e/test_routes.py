"""Adapters on the real engine: effect, eviction, and usage records."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from loramux_adapters.errors import NoAdapterCapacity
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import parse_adapter_name
from tests.conftest import EXAMPLE_NAMES, EXAMPLES, RealServer
from tests.helpers.adapter_files import lora_config, tensors_for, write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


def items(example: str, count: int) -> list[list[dict[str, str]]]:
    """Return the first held-out conversations of an example."""
    lines = (EXAMPLES / example / "test.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["messages"] for line in lines]


async def ask(real: RealServer, model: str, messages: Any, **options: Any) -> str:
    answer = await real.client.chat.completions.create(
        model=model, messages=messages, temperature=0, **({"max_tokens": 16} | options)
    )
    return str(answer.choices[0].message.content)


async def count(real: RealServer, line: str) -> float:
    page = (await real.http.get("/metrics")).text
    return next((float(row.rpartition(" ")[2]) for row in page.splitlines() if row.rpartition(" ")[0] == line), 0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)


async def test_a_fine_tune_answers_its_task_and_the_base_does_not(real: RealServer) -> None:
    conversations = items("support-intent", 10)
    right = {"support-intent": 0, real.base.name: 0}
    for model in right:
        answers = await asyncio.gather(*(ask(real, model, turns[:-1]) for turns in conversations))
        right[model] = sum(
            answer.strip() == turns[-1]["content"] for answer, turns in zip(answers, conversations, strict=True)
        )
    assert right["support-intent"] >= 7
    assert right[real.base.name] <= 3


async def test_requests_on_all_routes_at_once_answer_as_they_do_alone(real: RealServer) -> None:
    routes = [real.base.name, *EXAMPLE_NAMES]
    prompts = {name: items(name, 1)[0][:-1] for name in EXAMPLE_NAMES} | {
        real.base.name: items("house-tone", 1)[0][:-1]
    }
    # A few tokens: what else is in a batch changes the last bits of bfloat16 sums, which a long answer can show.
    alone = [await ask(real, name, prompts[name], max_tokens=3) for name in routes]
    together = await asyncio.gather(*(ask(real, name, prompts[name], max_tokens=3) for name in routes * 2))
    assert together == alone * 2


async def test_six_adapters_in_memory_for_three_never_overfill_the_engine(real: RealServer) -> None:
    names = [f"churn-{number}" for number in range(6)]
    for number, name in enumerate(names):
        tensors = tensors_for(real.base, ["q_proj"], [0, 1], seed=number)
        folder = write_adapter(
            real.folder / name, lora_config(target_modules=["q_proj"], layers_to_transform=[0, 1]), tensors
        )
        await real.server.adapter_service.add(
            parse_adapter_name(name), FolderSource(folder, [real.folder]), actor="test"
        )
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(await real.engine.list_loras()))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    turns = [{"role": "user", "content": "Hello"}]
    answers = await asyncio.gather(*(ask(real, name, turns, max_tokens=4) for name in names * 3))
    watching.cancel()
    assert len(answers) == 18
    assert 1 <= most <= 3
    for name in names:
        assert (await real.http.delete(f"/admin/adapters/{name}")).status_code == 200
    await until(lambda: not any("churn" in version.name for version in real.server.adapter_service.pool._residents))


@pytest.mark.parametrize("stream", [False, True])
async def test_each_request_is_counted_once_with_its_tokens_on_its_route(real: RealServer, stream: bool) -> None:
    requests = 'loramux_requests_total{adapter="order-json",operation="chat",outcome="ok",route="adapter"}'
    tokens = 'loramux_tokens_total{adapter="order-json",route="adapter",type="%s"}'
    before = [await count(real, requests), await count(real, tokens % "input"), await count(real, tokens % "output")]
    asked: Any = {"model": "order-json", "messages": items("order-json", 1)[0][:-1], "max_tokens": 10}
    if stream:
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = [chunk async for chunk in await real.client.chat.completions.create(**asked, **options)]
        usage = chunks[-1].usage
    else:
        usage = (await real.client.chat.completions.create(**asked)).usage
    assert usage is not None
    after = [await count(real, requests), await count(real, tokens % "input"), await count(real, tokens % "output")]
    changes = [new - old for new, old in zip(after, before, strict=True)]
    assert changes == [1, usage.prompt_tokens, usage.completion_tokens]


async def test_a_stream_that_its_client_leaves_is_cancelled_and_gives_its_lease_back(
    real: RealServer,
) -> None:
    cancelled = 'loramux_requests_total{adapter="house-tone",operation="chat",outcome="cancelled",route="adapter"}'
    before = await count(real, cancelled)
    asked: Any = {"model": "house-tone", "messages": items("house-tone", 1)[0][:-1], "max_tokens": 200}
    stream: Any = await real.client.chat.completions.create(**asked, stream=True, extra_body={"ignore_eos": True})
    async for _ in stream:
        break
    await stream.close()
    await until(lambda: not any(resident.leases for resident in real.server.adapter_service.pool._residents.values()))
    await asyncio.sleep(0.2)
    assert await count(real, cancelled) == before + 1
    assert await count(real, 'loramux_requests_in_flight{route="adapter"}') == 0


async def test_vllms_own_metrics_stand_beside_ours(real: RealServer) -> None:
    page = (await real.http.get("/metrics")).text
    assert "\nvllm:num_requests_running" in page
    assert "\nloramux_queue_seconds_count" in page


async def test_the_engines_processes_do_not_hear_signals_that_are_meant_for_the_server(real: RealServer) -> None:
    engine = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
    assert engine
    for process in engine:
        blocked = int(_status(process.pid)["SigBlk"], 16)
        for number in (signal.SIGTERM, signal.SIGINT):
            assert blocked >> (number - 1) & 1, f"{process.name()} obeys {number.name}"


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_the_base_answers_the_same_with_every_slot_taken_by_an_adapter(real: RealServer) -> None:
    assert await real.engine.collective_rpc("punica_wrapper_name") in (["CpuPunicaWrapper"], ["PunicaWrapperGPU"])
    prompts = {name: items(name, 1)[0][:-1] for name in EXAMPLE_NAMES}
    for version in list(real.server.adapter_service.pool._residents):
        real.server.adapter_service.pool.discard(version)
    await until(lambda: not real.server.adapter_service.pool._residents)
    before = [await ask(real, real.base.name, turns, max_tokens=24) for turns in prompts.values()]
    for name, turns in prompts.items():  # three adapters for two slots: both are taken from here on
        await ask(real, name, turns, max_tokens=2)
    after = [await ask(real, real.base.name, turns, max_tokens=24) for turns in prompts.values()]
    assert after == before


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_at_admission_has_a_real_status(
    real: RealServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise NoAdapterCapacity("full")

    monkeypatch.setattr(real.server.adapter_service.pool, "check", refuse)
    body = {"model": "order-json", "messages": items("order-json", 1)[0][:-1], "stream": stream}
    refused = await real.http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_overloaded")
    assert int(refused.headers["retry-after"]) >= 1
