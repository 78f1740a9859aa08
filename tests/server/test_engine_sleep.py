"""A whole server whose engine sleeps while a job trains: vLLM's handlers on the fake engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.fine_tuning import FineTuningJob
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from loramux_adapters.errors import EngineAsleep
from loramux_adapters.finetuning.jobs.engine_memory import ASLEEP, AWAKE, DRAINING
from loramux_adapters.finetuning.jobs.errors import EngineLost, EvaluationFailed
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.sleep import EngineSleep
from loramux_server.lifecycle import EXIT_ENGINE_DIED
from tests.helpers.fine_tuning_jobs import scripted_launcher, training_lines
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("sleep"), tiny_base, training={"sleep": True}) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(served: TinyServer) -> AsyncIterator[TinyServer]:
    """The server of all tests, with an engine that is awake, idle, quick and empty."""
    yield served
    await memory_of(served).restore()
    await served.evict()
    served.engine.seconds_per_token = served.engine.seconds_per_load = 0.0
    served.engine.sleeps = 0


def memory_of(tiny: TinyServer) -> EngineSleep:
    memory = tiny.server.job_supervisor.runner.engine_memory
    assert isinstance(memory, EngineSleep)
    return memory


def id_of(version: str) -> VersionId:
    name, _, digest = version.partition("@")
    return VersionId(AdapterName(name), parse_digest(digest))


async def metric(tiny: TinyServer, name: str) -> float:
    page = (await tiny.http.get("/metrics")).text
    [value] = [row.rpartition(" ")[2] for row in page.splitlines() if row.startswith(f"{name} ")]
    return float(value)


async def test_requests_are_refused_with_the_reason_until_the_engine_is_awake(tiny: TinyServer) -> None:
    await tiny.add("tone")
    memory = memory_of(tiny)
    await memory.free()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    for path, extra in (
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/chat/completions", {"model": "tone"}),
        ("/v1/messages", {}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/admin/adapters", {"name": "other", "source": "/nowhere"}),
    ):
        response = await tiny.http.post(path, json=body | extra)
        assert response.status_code == 503, path
        assert response.headers["retry-after"] == "30"
        assert "x-should-retry" not in response.headers
        assert response.json()["error"] == {
            "message": EngineAsleep().message,
            "type": "server_error",
            "param": None,
            "code": "engine_asleep",
        }
    await memory.restore()
    assert (await tiny.chat("tone")).choices[0].message.content.startswith("[tone")


async def test_what_needs_no_engine_works_while_it_is_asleep(tiny: TinyServer) -> None:
    version = await tiny.add("tone")
    await memory_of(tiny).free()
    paths = ("/v1/models", "/admin/adapters", "/admin/residency", "/admin/usage", "/v1/fine_tuning/jobs", "/metrics")
    for path in paths:
        assert (await tiny.http.get(path)).status_code == 200, path
    assert (await tiny.http.post("/tokenize", json={"model": "tiny", "prompt": "hello"})).status_code == 200
    assert (await tiny.http.delete(f"/admin/adapters/{version.partition('@')[0]}")).status_code == 200


async def test_health_readiness_and_metrics_tell_an_engine_that_sleeps_from_one_that_is_dead(tiny: TinyServer) -> None:
    assert (await tiny.http.get("/ready")).status_code == 200
    assert (await tiny.http.get("/health")).json()["engine"] == "awake"
    assert await metric(tiny, "loramux_engine_asleep") == 0
    await memory_of(tiny).free()
    ready = await tiny.http.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["error"]["message"] == EngineAsleep().message
    health = await tiny.http.get("/health")  # nothing is to be restarted
    assert (health.status_code, health.json()) == (200, {"status": "ok", "engine": "asleep"})
    assert await metric(tiny, "loramux_engine_asleep") == 1
    assert await metric(tiny, "loramux_engine_up") == 1


async def test_streams_and_beam_searches_finish_before_the_engine_sleeps(tiny: TinyServer) -> None:
    tiny.engine.seconds_per_token = 0.02
    stream = await tiny.chat("tiny", stream=True, max_tokens=30)
    beams = asyncio.create_task(
        tiny.chat("tiny", max_tokens=6, n=2, extra_body={"use_beam_search": True, "temperature": 0})
    )
    while tiny.engine.running < 2:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    falling_asleep = asyncio.create_task(memory_of(tiny).free())
    await asyncio.sleep(0.05)
    with pytest.raises(openai.InternalServerError) as refused:
        await tiny.chat("tiny")
    assert refused.value.code == "engine_asleep"
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len((await beams).choices) == 2
    await falling_asleep
    assert tiny.engine.asleep


async def test_an_adapter_is_loaded_to_its_end_and_then_not_at_all(tiny: TinyServer) -> None:
    version = await tiny.add("tone")
    await tiny.evict()
    tiny.engine.seconds_per_load = 0.1
    pool, memory = tiny.server.adapter_service.pool, memory_of(tiny)
    loading = asyncio.create_task(pool.prefetch(id_of(version)))
    while not tiny.engine.loading:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    await memory.free()
    assert loading.done()
    assert list(tiny.engine.loaded.values()) == [version]
    await tiny.evict()
    with pytest.raises(EngineAsleep):
        await pool.prefetch(id_of(version))
    assert pool.backoff.backed_off() == {}
    await memory.restore()
    await pool.prefetch(id_of(version))
    assert list(tiny.engine.loaded.values()) == [version]


async def test_a_request_that_slips_in_is_refused_and_does_not_wait_in_the_engine(
    tiny: TinyServer,
) -> None:
    """vLLM keeps a request that comes during its sleep until it wakes up, which may take hours."""
    evaluator = tiny.server.job_supervisor.runner.publisher.evaluator
    assert evaluator is not None
    await memory_of(tiny).free()
    with pytest.raises(EvaluationFailed, match="The engine is asleep"):
        await evaluator.complete(None, [{"role": "user", "content": "hello"}], 4)


async def test_a_judge_waits_until_the_engine_is_awake(tiny: TinyServer) -> None:
    request = ChatCompletionRequest(model="tiny", messages=[{"role": "user", "content": "grade this"}], max_tokens=4)
    memory = memory_of(tiny)
    await memory.free()
    asking = asyncio.create_task(tiny.server.experimentation.chat.complete(request, charge_to="judge"))
    await asyncio.sleep(0.05)
    assert not asking.done()
    await memory.restore()
    assert len(await asking) == 1


async def test_an_adapter_that_is_pinned_meanwhile_is_loaded_when_the_engine_wakes(tiny: TinyServer) -> None:
    version, pool = await tiny.add("tone"), tiny.server.adapter_service.pool
    await tiny.evict()
    memory, woken = memory_of(tiny), asyncio.Event()

    async def sleep_until_woken(_seconds: float) -> None:
        await woken.wait()

    pool.pinned.sleep = sleep_until_woken
    await memory.free()
    pool.pin({id_of(version)})
    await asyncio.sleep(0.05)
    await memory.restore()
    woken.set()
    while not tiny.engine.loaded:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)


async def test_an_adapter_that_arrives_meanwhile_is_checked_and_promoted_when_the_engine_wakes(
    tiny: TinyServer,
) -> None:
    """Its download began before the engine slept, and takes longer than a request that only waits for its client."""
    memory = memory_of(tiny)
    await memory.free()
    with pytest.raises(EngineAsleep):
        await tiny.add("late")
    [version] = tiny.server.adapter_service.get(AdapterName("late")).versions
    assert version.is_checking
    await memory.restore()
    [version] = tiny.server.adapter_service.get(AdapterName("late")).versions
    assert not version.is_checking
    assert (await tiny.chat("late")).choices[0].message.content.startswith("[late")


async def test_the_engine_is_not_measured_in_its_sleep(tiny: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = tiny.server.idle_calibration
    monkeypatch.setattr(calibration, "_idle_since", 0.0)
    await memory_of(tiny).free()
    await calibration.check()
    assert calibration._failures == 0


async def test_a_server_whose_engine_does_not_wake_up_exits_as_if_it_had_died(
    tiny_base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tiny_server(tmp_path, tiny_base, training={"sleep": True}) as tiny:
        memory = memory_of(tiny)
        monkeypatch.setattr(memory, "_wake_retry_seconds", 0.0)
        await memory.free()
        tiny.engine.wake_errors = [RuntimeError("out of memory")] * 3
        with pytest.raises(EngineLost, match="could not be woken"):
            await memory.restore()
        assert await asyncio.wait_for(asyncio.shield(tiny.life), 10) == EXIT_ENGINE_DIED


async def finished(tiny: TinyServer, job: str) -> FineTuningJob:
    async with asyncio.timeout(30):
        while (found := await tiny.client.fine_tuning.jobs.retrieve(job)).finished_at is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


async def start_job(tiny: TinyServer, *behavior: str) -> str:
    tiny.server.job_supervisor.runner.launcher = scripted_launcher(*behavior)
    file = await tiny.client.files.create(file=("a.jsonl", training_lines()), purpose="fine-tune")
    job = await tiny.client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    async with asyncio.timeout(30):
        while not tiny.engine.asleep:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    return job.id


async def messages(tiny: TinyServer, job: str) -> list[str]:
    events = await tiny.client.fine_tuning.jobs.list_events(job, limit=100)
    return [event.message for event in reversed(events.data)]


async def test_a_job_says_when_the_engine_sleeps_and_wakes(tiny: TinyServer) -> None:
    """The scripted trainer writes no adapter: the job fails after its training, with an engine that is awake."""
    job = await start_job(tiny, "train", "0.02", "", "cuda:0")
    assert (await tiny.http.get("/ready")).status_code == 503
    assert (await finished(tiny, job)).status == "failed"
    said: list[Any] = [message for message in await messages(tiny, job) if message in (DRAINING, ASLEEP, AWAKE)]
    assert said == [DRAINING, ASLEEP, AWAKE]
    assert (tiny.engine.asleep, tiny.engine.sleeps) == (False, 1)
    assert (await tiny.chat("tiny")).choices


async def test_a_cancelled_job_wakes_the_engine(tiny: TinyServer) -> None:
    job = await start_job(tiny, "train", "0.5", "", "cuda:0")
    await tiny.client.fine_tuning.jobs.cancel(job)
    async with asyncio.timeout(10):
        while tiny.engine.asleep:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert (await tiny.chat("tiny")).choices


async def test_an_engine_that_is_not_told_to_does_not_sleep(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        assert tiny.server.job_supervisor.runner.engine_memory is None
        assert await metric(tiny, "loramux_engine_asleep") == 0
