"""The effect check on the fake engine, whose log-probabilities are -1 on the base and -2 on adapters."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import AdapterLoadingFailed, EngineAsleep
from loramux_adapters.models import AdapterName, Digest, EffectCheck, VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.admission import EngineAdmission, EngineState
from loramux_server.engine.effect_check import PROBES, EngineEffectChecker
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.lora_directory import LoraRequests
from tests.helpers.tiny_server import small_engine, tiny_server

TONE = VersionId(AdapterName("tone"), Digest("a" * 12))


class Resolver:
    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        return None

    def path(self, version: VersionId) -> Path:
        return Path("/store") / version.digest


class NullPoolObserver:
    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None: ...
    def evicted(self, version: VersionId, reason: str) -> None: ...
    def resident(self, count: int) -> None: ...


@dataclass
class CheckSetup:
    """An effect checker, its engine and its pool."""

    engine: FakeEngine
    pool: AdapterPool
    checker: EngineEffectChecker


@pytest.fixture
def bench(tiny_base: ResolvedBase) -> Iterator[CheckSetup]:
    engine, requests = small_engine(tiny_base), LoraRequests(Resolver(), "tiny")
    pool = AdapterPool(EngineLoader(engine, requests, lambda _: None), engine.capacity, NullPoolObserver(), slots=2)
    yield CheckSetup(engine, pool, EngineEffectChecker(engine, pool, requests))
    assert not engine.running


async def test_nothing_is_checked_while_the_engine_is_asleep(bench: CheckSetup) -> None:
    admission = EngineAdmission()
    checker = EngineEffectChecker(bench.engine, bench.pool, LoraRequests(Resolver(), "tiny"), admission.use)
    for state in (EngineState.DRAINING, EngineState.ASLEEP):
        admission.move(state)
    with pytest.raises(EngineAsleep):
        await checker.check_effect(TONE)
    assert bench.engine.loads == []


async def test_an_adapter_with_an_effect_differs_and_has_sample_answers(bench: CheckSetup) -> None:
    check = await bench.checker.check_effect(TONE)
    assert (check.difference, check.noise, check.finite) == (1.0, 0.0, True)
    assert tuple(answer.prompt for answer in check.answers) == PROBES
    for answer in check.answers:
        assert "[base]".startswith(answer.base[:6])
        assert answer.adapter.startswith("[tone@"[: len(answer.adapter)])


async def test_an_adapter_without_effect_has_no_difference(bench: CheckSetup) -> None:
    bench.engine.without_effect.add(str(TONE))
    check = await bench.checker.check_effect(TONE)
    assert (check.difference, check.finite) == (0.0, True)


async def test_nan_values_are_reported_in_a_result_that_can_be_stored(bench: CheckSetup) -> None:
    bench.engine.corrupt.add(str(TONE))
    check = await bench.checker.check_effect(TONE)
    assert not check.finite
    assert EffectCheck.model_validate_json(check.model_dump_json()) == check


async def test_the_noise_is_the_difference_of_the_base_from_its_first_run(
    bench: CheckSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.checker.check_effect(TONE)
    original = bench.engine._prompt_logprobs

    def shifted(tokens: list[int], params: Any, route: Any) -> Any:
        logprobs = original(tokens, params, route)
        for choices in logprobs[1:] if route is None else ():
            for token in choices:
                choices[token].logprob += 0.25
        return logprobs

    monkeypatch.setattr(bench.engine, "_prompt_logprobs", shifted)
    check = await bench.checker.check_effect(TONE)
    assert (check.difference, check.noise) == (1.25, 0.25)


async def test_a_check_holds_a_lease(bench: CheckSetup) -> None:
    bench.engine.seconds_per_token = 0.001
    checking = asyncio.create_task(bench.checker.check_effect(TONE))
    while not bench.pool.is_resident(TONE):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 1
    await checking
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 0


async def test_a_version_that_does_not_load_fails_the_check(bench: CheckSetup) -> None:
    bench.engine.refused_loads.add(str(TONE))
    with pytest.raises(AdapterLoadingFailed):
        await bench.checker.check_effect(TONE)


async def test_a_cancelled_check_releases_its_lease(bench: CheckSetup) -> None:
    bench.engine.seconds_per_token = 0.01
    checking = asyncio.create_task(bench.checker.check_effect(TONE))
    while not bench.pool.is_resident(TONE) or not bench.engine.running:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 0


async def test_a_server_can_serve_versions_without_effect_checks(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base, proof=False) as tiny:
        version = await tiny.add("tone")
        assert not tiny.engine.loads
        assert await tiny.server.adapter_service.effect_check(VersionId.parse(version)) is None
        assert (await tiny.chat("tone")).model == version
