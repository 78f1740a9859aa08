"""What the prover makes of an engine's answers: the fake engine's log-probability is -1 on the base, -2 on adapters."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import AdapterLoadingFailed
from loramux_adapters.models import AdapterName, Digest, EffectCheck, VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.effect_check import PROBES, EngineEffectChecker
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.lora_directory import LoraRequests
from tests.helpers.tiny_server import small_engine, tiny_server

TONE = VersionId(AdapterName("tone"), Digest("a" * 12))


class Catalogue:
    def resolve(self, name: str, sticky: str | None) -> VersionId | None:
        return None

    def path(self, version: VersionId) -> Path:
        return Path("/store") / version.digest


class Observer:
    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None: ...
    def evicted(self, version: VersionId, reason: str) -> None: ...
    def resident(self, count: int) -> None: ...


@dataclass
class Bench:
    """A prover, and what it works with."""

    engine: FakeEngine
    pool: AdapterPool
    prover: EngineEffectChecker


@pytest.fixture
def bench(tiny_base: ResolvedBase) -> Iterator[Bench]:
    engine, requests = small_engine(tiny_base), LoraRequests(Catalogue(), "tiny")
    pool = AdapterPool(EngineLoader(engine, requests, lambda _: None), engine.capacity, Observer(), slots=2)
    yield Bench(engine, pool, EngineEffectChecker(engine, pool, requests))
    assert not engine.running


async def test_an_adapter_with_an_effect_differs_and_its_first_answers_are_kept(bench: Bench) -> None:
    proof = await bench.prover.check_effect(TONE)
    assert (proof.difference, proof.noise, proof.finite) == (1.0, 0.0, True)
    assert tuple(answer.prompt for answer in proof.answers) == PROBES
    for answer in proof.answers:
        assert "[base]".startswith(answer.base[:6])
        assert answer.adapter.startswith("[tone@"[: len(answer.adapter)])


async def test_an_adapter_without_effect_differs_by_nothing(bench: Bench) -> None:
    bench.engine.without_effect.add(str(TONE))
    proof = await bench.prover.check_effect(TONE)
    assert (proof.difference, proof.finite) == (0.0, True)


async def test_values_that_are_no_numbers_are_told_and_leave_a_proof_that_can_be_kept(bench: Bench) -> None:
    bench.engine.corrupt.add(str(TONE))
    proof = await bench.prover.check_effect(TONE)
    assert not proof.finite
    assert EffectCheck.model_validate_json(proof.model_dump_json()) == proof


async def test_how_much_the_base_differs_from_its_first_run_is_the_noise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.prover.check_effect(TONE)
    honest = bench.engine._prompt_logprobs

    def shifted(tokens: list[int], params: Any, route: Any) -> Any:
        given = honest(tokens, params, route)
        for choices in given[1:] if route is None else ():
            for token in choices:
                choices[token].logprob += 0.25
        return given

    monkeypatch.setattr(bench.engine, "_prompt_logprobs", shifted)
    proof = await bench.prover.check_effect(TONE)
    assert (proof.difference, proof.noise) == (1.25, 0.25)


async def test_a_version_that_is_proven_holds_its_place_until_then_and_counts_as_no_use(bench: Bench) -> None:
    bench.engine.seconds_per_token = 0.001
    proving = asyncio.create_task(bench.prover.check_effect(TONE))
    while not bench.pool.is_resident(TONE):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 1
    await proving
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 0
    assert bench.pool.take_use_counts() == {}


async def test_a_version_that_does_not_load_is_not_proven(bench: Bench) -> None:
    bench.engine.refused_loads.add(str(TONE))
    with pytest.raises(AdapterLoadingFailed):
        await bench.prover.check_effect(TONE)


async def test_a_proof_that_is_given_up_leaves_the_place(bench: Bench) -> None:
    bench.engine.seconds_per_token = 0.01
    proving = asyncio.create_task(bench.prover.check_effect(TONE))
    while not bench.pool.is_resident(TONE) or not bench.engine.running:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    proving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await proving
    (resident,) = (await bench.pool.view()).residents
    assert resident.leases == 0


async def test_a_server_that_wants_no_proofs_serves_versions_unproven(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base, proof=False) as tiny:
        version = await tiny.add("tone")
        assert not tiny.engine.loads
        assert await tiny.server.adapter_service.effect_check(VersionId.parse(version)) is None
        assert (await tiny.chat("tone")).model == version
