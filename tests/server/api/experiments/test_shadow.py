"""Shadow experiments and judges, on the fake engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from loramux_server.engine import shadow as shadow_module
from loramux_server.metering.usage_record import UsageRecord
from tests.helpers.experiment_traffic import STYLE, chat, recorded, start, stored
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("shadow"), tiny_base) as tiny:
        await tiny.add("tone")
        yield tiny


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def no_experiment(tiny: TinyServer) -> AsyncIterator[None]:
    yield
    for running in tiny.server.experimentation.parts.live.all():
        await tiny.server.experimentation.service.stop(running.experiment.id, actor="test")


async def wait_until_idle(tiny: TinyServer) -> None:
    while tiny.engine.running:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)


async def test_the_baseline_is_asked_after_the_answer_and_charged_to_the_experiment(tiny: TinyServer) -> None:
    experiment = await start(tiny, share=1, shadow=True, quality=STYLE)
    charged: list[UsageRecord] = []
    sinks: Any = tiny.server.usage_recorder.meter._sinks
    tiny.server.usage_recorder.meter._sinks = (*sinks, Sink(charged))
    shadows = tiny.server.experimentation.shadows
    for number in range(12):
        header, completion = await chat(tiny, f"user-{number}", stream=False)
        assert header == f"{experiment['id']}/adapter"
        assert completion.choices[0].message.content.startswith("[tone@")
        await wait_until_idle(tiny)
        await shadows.ask_next()
    shown = await recorded(tiny, experiment, 24)
    tiny.server.usage_recorder.meter._sinks = sinks
    report = shown["report"]
    assert (report["pairs"], report["verdict"]) == (12, "better")
    assert (report["challenger"]["requests"], report["reference"]["requests"]) == (12, 12)
    accounts = [str(record.key_id) for record in charged]
    assert sorted(set(accounts)) == ["anonymous", f"experiment:{experiment['id']}"]
    assert accounts.count("anonymous") == 12
    measures = {ratio["measure"] for ratio in report["ratios"]}
    assert "duration" not in measures  # shadow requests run while the engine is idle
    assert {"input_tokens", "output_tokens"} <= measures


class Sink:
    """Keeps the records that are charged."""

    def __init__(self, records: list[UsageRecord]) -> None:
        self.records = records

    def record_charge(self, record: UsageRecord, _charge: object) -> None:
        self.records.append(record)

    def record_engine_time(self, _engine_time: object) -> None:
        pass


async def test_streamed_answers_are_shadowed_too(tiny: TinyServer) -> None:
    experiment = await start(tiny, share=1, shadow=True, quality=STYLE)
    _, stream = await chat(tiny, "user", stream=True)
    assert [chunk async for chunk in stream]
    await wait_until_idle(tiny)
    await tiny.server.experimentation.shadows.ask_next()
    assert (await recorded(tiny, experiment, 2))["report"]["pairs"] == 1


async def test_a_shadow_request_waits_while_the_engine_is_busy_and_is_dropped_in_the_end(
    tiny: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = await start(tiny, share=1, shadow=True, quality=STYLE)
    shadows = tiny.server.experimentation.shadows
    await chat(tiny, "user")
    monkeypatch.setattr(tiny.engine, "get_num_unfinished_requests", lambda: 1)
    await shadows.ask_next()
    later = shadows._clock() + shadow_module.MAX_WAIT_SECONDS + 1
    monkeypatch.setattr(shadows, "_clock", lambda: later)
    await shadows.ask_next()
    shown = await recorded(tiny, experiment, 1)
    assert shown["report"]["pairs"] == 0
    assert tiny.server.experimentation.parts.recorder.counters[experiment["id"]] == {shadow_module.DROPPED: 1}


async def test_too_many_waiting_shadow_requests_are_dropped(tiny: TinyServer) -> None:
    experiment = await start(tiny, share=1, shadow=True, quality=STYLE)
    for number in range(shadow_module.MAX_WAITING + 3):
        await chat(tiny, f"user-{number}", max_tokens=3)
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")
    assert (await stored(tiny, experiment["id"])).counters[shadow_module.DROPPED] == 3
    tiny.server.experimentation.shadows._waiting.clear()


async def test_a_baseline_that_cannot_answer_its_shadow_request_has_failed(tiny: TinyServer) -> None:
    prompt = [{"role": "system", "content": "long " * 60}]
    experiment = await start(tiny, share=1, shadow=True, quality=STYLE, baseline={"prompt": prompt})
    await chat(tiny, "user")
    await wait_until_idle(tiny)
    await tiny.server.experimentation.shadows.ask_next()
    report = (await recorded(tiny, experiment, 2))["report"]
    assert (report["pairs"], report["reference"]["failed"]) == (1, 1)


async def test_a_judge_that_gives_no_grade_scores_nothing_and_is_counted(tiny: TinyServer) -> None:
    quality = {"type": "judge", "model": tiny.server.base_name, "rubric": "Is it polite?"}
    experiment = await start(tiny, quality=quality)
    await chat(tiny, "user")
    shown = await recorded(tiny, experiment, 1)
    assert shown["report"]["challenger"]["scored_units"] + shown["report"]["reference"]["scored_units"] == 0
    assert (await stored(tiny, experiment["id"])).counters == {"not scored: the judge gave no grade": 1}
