"""Completions by the fake engine as an evaluation asks for them; tests/e2e runs one on the real engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loramux_adapters.models import VersionId
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.evaluation_client import EngineEvaluationClient
from tests.helpers.tiny_server import TinyServer, tiny_server


@pytest_asyncio.fixture
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


@pytest.fixture
def ask(tiny: TinyServer) -> EngineEvaluationClient:
    evaluator = tiny.server.job_supervisor.runner.publisher.evaluator
    assert evaluator
    assert isinstance(evaluator.complete, EngineEvaluationClient)
    return evaluator.complete


CHAT = [{"role": "system", "content": "Intent?"}, {"role": "user", "content": "hello"}]


async def test_base_and_version_are_asked_what_a_user_would_ask(tiny: TinyServer, ask: EngineEvaluationClient) -> None:
    version = VersionId.parse(await tiny.add("tone"))
    base, tuned = await ask(None, CHAT, 9), await ask(version, CHAT, 9)
    assert base.input_tokens == tuned.input_tokens == len("<>Intent?<>hello<>") + len("systemuserassistant") + 2
    assert base.output_tokens == tuned.output_tokens == 9
    assert base.text != tuned.text
    assert base.seconds > 0


async def test_nobody_is_charged(tiny: TinyServer, ask: EngineEvaluationClient) -> None:
    await ask(VersionId.parse(await tiny.add("tone")), CHAT, 9)
    assert (await tiny.http.get("/admin/usage")).json()["total"] is None
    assert 'route="adapter"' not in (await tiny.http.get("/metrics")).text.replace("in_flight", "")


async def test_a_version_that_left_the_engine_is_loaded_again_and_let_go(
    tiny: TinyServer, ask: EngineEvaluationClient
) -> None:
    version = VersionId.parse(await tiny.add("tone"))
    await tiny.evict()
    await ask(version, CHAT, 2)
    (resident,) = (await tiny.server.adapter_service.pool.view()).residents
    assert (resident.version, resident.leases) == (version, 0)
