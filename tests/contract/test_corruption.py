"""Adapters that compute NaN, and ones without effect, on the real engine: neither affects other requests.

Stock vLLM serves both. The former leave NaN in blocks of the KV cache, which corrupt the answers of later requests.
They run on vLLM's V1 model runner, and on its V2 runner with a GPU's kernels, interpreted.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio

from loramux_adapters.effect_policy import MIN_EFFECT_NATS
from loramux_adapters.errors import AdapterRejected
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.validation import values
from loramux_adapters.models import parse_adapter_name
from tests.conftest import EXAMPLE_NAMES, RealServer
from tests.helpers.adapter_files import lora_config, tensors_for, write_adapter
from tests.helpers.cuda_path.environment import is_cuda_path

pytestmark = [pytest.mark.engine, pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]

Answers = list[list[str]]
LAYER = 1
OVERFLOWING = (6e4, 2e4) if is_cuda_path() else (3e38, 1e-37)
"""Values of A and B that are finite in the engine's type, float16 or a larger one, and whose products are not."""
QUESTIONS = ("What is the capital of France?", "Two pizzas and a cola, please.")


async def add(real: RealServer, name: str, *, a: float, b: float) -> Any:
    """Add an adapter whose A and B matrices are filled with these values."""
    tensors = tensors_for(real.base, ["q_proj"], [LAYER])
    filled = {key: np.full_like(value, a if "lora_A" in key else b) for key, value in tensors.items()}
    folder = real.folder / name
    config = lora_config(target_modules=["q_proj"], layers_to_transform=[LAYER])
    source = FolderSource(write_adapter(folder, config, filled), [real.folder])
    return await real.server.adapter_service.add(parse_adapter_name(name), source, actor="test")


async def add_overflowing(real: RealServer) -> Any:
    """Add an adapter with finite weights whose products overflow; bypasses the validator, which would reject it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "MAX_VALUE", math.inf)
        patch.setattr(values, "MAX_PRODUCT", math.inf)
        return await add(real, "overflowing", a=OVERFLOWING[0], b=OVERFLOWING[1])


async def ask(real: RealServer, model: str, question: str) -> list[str]:
    """Return the first four tokens of the answer."""
    answer = await real.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=4, logprobs=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    return [token.token for token in logprobs.content]


async def answers(real: RealServer) -> Answers:
    """Return the answers of the base and the examples, requested one after the other."""
    return [await ask(real, name, question) for name in (real.base.name, *EXAMPLE_NAMES) for question in QUESTIONS]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def before(real: RealServer) -> Answers:
    """The answers before these tests."""
    return await answers(real)


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_left(real: RealServer) -> AsyncIterator[None]:
    yield
    for name in ("overflowing", "unchanging"):
        await real.http.delete(f"/admin/adapters/{name}")


async def test_examples_have_an_effect_far_above_the_minimum_and_sample_answers(real: RealServer) -> None:
    for name in EXAMPLE_NAMES:
        (version,) = real.server.adapter_service.get(parse_adapter_name(name)).versions
        check = await real.server.adapter_service.effect_check(version.id)
        assert check.finite
        assert check.difference > 1000 * MIN_EFFECT_NATS
        assert check.difference > 10 * check.noise
        assert any(answer.adapter != answer.base for answer in check.answers)


async def test_an_adapter_without_effect_is_rejected(real: RealServer, before: Answers) -> None:
    with pytest.raises(AdapterRejected, match="has no effect"):
        await add(real, "unchanging", a=1e-4, b=1e-4)
    assert await answers(real) == before


async def test_an_adapter_that_overflows_is_rejected_and_leaves_nothing(real: RealServer, before: Answers) -> None:
    with pytest.raises(AdapterRejected, match="NaN or infinite"):
        await add_overflowing(real)
    assert await answers(real) == before


async def test_an_adapter_that_corrupts_answers_is_quarantined_and_other_answers_are_unchanged(
    real: RealServer, before: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real.server.adapter_service._adder, "effect_checker", None)
    version = await add_overflowing(real)
    corrupt = [asyncio.create_task(ask(real, "overflowing", question)) for question in QUESTIONS]
    during = await answers(real)
    for error in await asyncio.gather(*corrupt, return_exceptions=True):
        assert isinstance(error, openai.APIStatusError)
        assert (error.status_code, error.code) == (503, "adapter_quarantined")
    assert await answers(real) == before
    # The rest of a batch changes the last bits of bfloat16 sums, which may change later tokens.
    assert [tokens[:2] for tokens in during] == [tokens[:2] for tokens in before]
    known = real.server.adapter_service.resolver.version(str(version.id))
    assert (known.state, known.reason) == ("quarantined", "it computed NaN or infinite values")
