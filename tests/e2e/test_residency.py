"""Any mix of pins, prefetches and requests leaves the real engine alive and its answers right."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import AdapterName, VersionId, parse_adapter_name
from tests.conftest import RealServer
from tests.helpers.adapter_files import lora_config, tensors_for, write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

ADAPTERS = 6
"""Twice as many as the engine holds in host memory, and three times as many as it has slots."""
ACTIONS = 40
PROMPT = "Once upon a time, a fox and a crow met at the well"
ANSWER_TOKENS = 32
"""Enough for the answers of different adapters to overlap."""


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
    tensors = tensors_for(real.base, rank=8, seed=seed)
    strong = {key: np.sign(value) * np.float32(0.06) for key, value in tensors.items()}
    return write_adapter(folder, lora_config(r=8, target_modules="all-linear"), strong)


async def _ask(real: RealServer, model: str, tokens: int = 1) -> list[float]:
    """Return the log-probabilities of the prompt's tokens: they tell adapters apart where an answer may be a tie."""
    answer = await real.client.completions.create(
        model=model, prompt=PROMPT, max_tokens=tokens, logprobs=0, echo=True, extra_body={"ignore_eos": True}
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.token_logprobs
    return [float(value) for value in logprobs.token_logprobs[1:-tokens] if value is not None]


def _is_by(model: str, found: list[float], expected: dict[str, list[float]]) -> bool:
    """Whether the adapter itself computed these: the other requests of a bfloat16 batch change them a little."""
    distances = {name: float(np.max(np.abs(np.subtract(found, alone)))) for name, alone in expected.items()}
    own = distances.pop(model)
    return own < min(distances.values()) / 3


async def test_a_pinned_adapter_and_requests_to_as_many_others_as_there_are_slots_are_all_answered(
    real: RealServer, versions: list[VersionId]
) -> None:
    """S0: vLLM's scheduler plans a step with as many adapters as there are slots, so none of them may be reserved."""
    expected = {str(version): await _ask(real, str(version)) for version in versions}
    await real.server.adapter_service.pin(versions[0].name, pinned=True, actor="test")
    await _ask(real, str(versions[0]))
    models = [str(version) for version in versions[1:]]
    answers = await asyncio.gather(*(_ask(real, model, ANSWER_TOKENS) for model in models))
    for model, found in zip(models, answers, strict=True):
        assert _is_by(model, found, expected), model
    await real.server.adapter_service.pin(versions[0].name, pinned=False, actor="test")


@pytest.mark.parametrize("seed", range(2))
async def test_random_pins_prefetches_splits_and_requests_fail_no_request(
    real: RealServer, versions: list[VersionId], seed: int
) -> None:
    service, rng = real.server.adapter_service, random.Random(seed)  # noqa: S311 - repeatable
    expected = {str(version): await _ask(real, str(version)) for version in versions}
    answers: list[asyncio.Task[tuple[str, list[float]]]] = []

    async def answer(model: str) -> tuple[str, list[float]]:
        return model, await _ask(real, model, ANSWER_TOKENS)

    def name() -> AdapterName:
        return rng.choice(versions).name

    async def request() -> None:
        answers.extend(asyncio.create_task(answer(str(version))) for version in rng.choices(versions, k=4))

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
        assert _is_by(model, found, expected), model
    for version in versions:
        await service.pin(version.name, pinned=False, actor="test")
    assert not real.engine.errored
