"""Any mix of pins, prefetches, splits and requests within the limits leaves the real engine alive and its answers right."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import LINEAR_MODULES, AdapterName, VersionId, parse_adapter_name
from tests.conftest import RealServer
from tests.helpers.adapter_files import lora_config, lora_tensors, write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

ADAPTERS = 6
"""Twice as many as the engine holds in host memory, and three times as many as it has slots."""
ACTIONS = 40


@pytest_asyncio.fixture(loop_scope="session")
async def versions(real: RealServer) -> AsyncIterator[list[VersionId]]:
    """Versions of adapters whose answers differ, in the order of their seeds."""
    service, added = real.server.adapter_service, []
    for seed in range(ADAPTERS):
        source = FolderSource(_write(real, real.folder / f"residency-{seed}", seed), (real.folder,))
        added.append((await service.add(parse_adapter_name(f"residency-{seed}"), source, actor="test")).id)
    yield added
    for version in added:
        await service.remove(version.name, actor="test")


def _write(real: RealServer, folder: Path, seed: int) -> Path:
    tensors = lora_tensors(
        modules=tuple(LINEAR_MODULES),
        layers=tuple(range(real.base.num_hidden_layers)),
        rank=8,
        seed=seed,
        base=real.base,
    )
    strong = {key: np.sign(value) * np.float32(0.06) for key, value in tensors.items()}
    return write_adapter(folder, lora_config(r=8, target_modules=list(LINEAR_MODULES)), strong)


async def _ask(real: RealServer, model: str) -> float:
    """Return the log-probability of the likeliest first token: it tells the adapters apart, and a text can be a tie."""
    answer = await real.client.completions.create(
        model=model, prompt="Once upon a time", max_tokens=4, logprobs=0, temperature=0.0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.token_logprobs
    return float(logprobs.token_logprobs[0] or 0.0)


def _approximately(value: float) -> object:
    """Allow what the other requests of a bfloat16 batch change."""
    return pytest.approx(value, abs=0.1)


async def test_a_pinned_adapter_and_requests_to_as_many_others_as_there_are_slots_are_all_answered(
    real: RealServer, versions: list[VersionId]
) -> None:
    """S0: vLLM's scheduler plans a step with as many adapters as there are slots, so none of them may be reserved."""
    expected = [await _ask(real, str(version)) for version in versions]
    await real.server.adapter_service.pin(versions[0].name, pinned=True, actor="test")
    await _ask(real, str(versions[0]))
    answers = await asyncio.gather(*(_ask(real, str(version)) for version in versions[1:]))
    assert answers == [_approximately(value) for value in expected[1:]]
    assert np.ptp(expected) > 0.5
    await real.server.adapter_service.pin(versions[0].name, pinned=False, actor="test")


@pytest.mark.parametrize("seed", range(3))
async def test_random_pins_prefetches_splits_and_requests_fail_no_request(
    real: RealServer, versions: list[VersionId], seed: int
) -> None:
    service, rng = real.server.adapter_service, random.Random(seed)
    expected = {str(version): await _ask(real, str(version)) for version in versions}
    answers: list[asyncio.Task[tuple[str, float]]] = []

    async def answer(model: str) -> tuple[str, float]:
        return model, await _ask(real, model)

    def name() -> AdapterName:
        return rng.choice(versions).name

    async def request() -> None:
        for version in rng.choices(versions, k=4):
            answers.append(asyncio.create_task(answer(str(version))))

    changes: list[Callable[[], Awaitable[object]]] = [
        request,
        request,
        request,
        lambda: service.pin(name(), pinned=True, actor="test"),
        lambda: service.pin(name(), pinned=False, actor="test"),
        lambda: service.prefetch(name()),
        lambda: asyncio.sleep(rng.random() / 5),
    ]
    for _ in range(ACTIONS):
        try:
            await rng.choice(changes)()
        except AdapterError as refused:  # such as one pin too many
            assert refused.message
    for model, found in await asyncio.gather(*answers):
        assert found == _approximately(expected[model]), model
    for version in versions:
        await service.pin(version.name, pinned=False, actor="test")
    assert not real.engine.errored
