"""The grammar process: what it compiles, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import pytest_asyncio

from loramux_server.errors import InvalidRequest
from loramux_server.settings.request_limits import GrammarLimits

if TYPE_CHECKING:
    from loramux_server.base_model import ResolvedBase
    from loramux_server.engine.grammars.sandbox import GrammarSandbox

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(tiny_base: "ResolvedBase") -> AsyncIterator["GrammarSandbox"]:
    from loramux_server.engine.grammars.sandbox import grammar_sandbox
    from tests.helpers.tiny_server import small_engine

    async with grammar_sandbox(small_engine(tiny_base), GrammarLimits(cpu_seconds=0.5)) as sandbox:
        yield sandbox


async def prove(sandbox: "GrammarSandbox", **fields: Any) -> Any:
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    params = SamplingParams(structured_outputs=StructuredOutputsParams(**fields))
    return (await sandbox.prove(params)).structured_outputs


async def test_what_compiles_gets_the_backend_that_compiled_it(sandbox: "GrammarSandbox") -> None:
    assert (
        await prove(sandbox, json={"type": "object", "properties": {"a": {"type": "string"}}})
    )._backend == "xgrammar"
    assert (await prove(sandbox, json={"type": "integer", "multipleOf": 3}))._backend == "guidance"
    choice = await prove(sandbox, choice=["a", "b"])
    assert choice.choice is None
    assert "::=" in choice.grammar


async def test_what_is_invalid_is_refused_with_a_reason(sandbox: "GrammarSandbox") -> None:
    with pytest.raises(InvalidRequest, match="is invalid") as refused:
        await prove(sandbox, regex="(")
    assert refused.value.param == "structured_outputs.regex"


async def test_what_takes_too_long_is_refused_and_the_next_one_is_compiled(sandbox: "GrammarSandbox") -> None:
    with pytest.raises(InvalidRequest, match="too complex"):
        await prove(sandbox, json={"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(6000)}})
    assert (await prove(sandbox, json={"type": "boolean"}))._backend == "xgrammar"


async def test_compiling_ends_when_the_client_leaves(sandbox: "GrammarSandbox") -> None:
    await prove(sandbox, json={"type": "null"})
    assert sandbox._process
    forks = psutil.Process(sandbox._process.pid).children
    asking = asyncio.create_task(prove(sandbox, json={"enum": [f"value {i}" for i in range(15_000)]}))
    while not forks() and not asking.done():  # noqa: ASYNC110 - processes have no event
        await asyncio.sleep(0.001)
    asking.cancel()
    while forks():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
