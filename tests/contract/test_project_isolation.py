"""The contract of vLLM's cache salts and of its stored responses: what keeps projects apart inside the engine."""

import inspect
import re
from typing import Any

import pytest
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.sampling_params import SamplingParams

from loramux_server.auth import Principal, Scope
from loramux_server.engine.project_isolation import salted
from tests.conftest import RealServer

PROMPT: dict[str, Any] = {"prompt_token_ids": [7 + number % 89 for number in range(400)]}


async def cached_tokens(engine: Any, project: str, number: int) -> int:
    """Run the prompt as a project, and return how many of its tokens were cached."""
    prompt = salted(PROMPT, Principal("key", frozenset({Scope.INFER}), project))
    outputs = engine.generate(prompt, SamplingParams(max_tokens=1), f"{project}-{number}")
    return [output.num_cached_tokens async for output in outputs][-1] or 0


@pytest.mark.engine
@pytest.mark.asyncio(loop_scope="session")
async def test_projects_share_no_cached_prompt_with_each_other(real: RealServer) -> None:
    engine = real.engine
    assert await cached_tokens(engine, "acme", 1) == 0
    assert await cached_tokens(engine, "acme", 2) > 0
    assert await cached_tokens(engine, "beta", 1) == 0
    assert await cached_tokens(engine, "default", 1) == 0
    assert await cached_tokens(engine, "default", 2) > 0


def test_vllm_keeps_stored_responses_in_the_two_places_that_are_replaced() -> None:
    stores = set(re.findall(r"self\.(\w+_store)\b", inspect.getsource(OpenAIServingResponses.__init__)))
    assert stores - {"enable_store"} == {"response_store", "msg_store", "event_store"}
