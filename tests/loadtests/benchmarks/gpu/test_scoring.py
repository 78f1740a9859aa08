"""The client that asks for log-probabilities, on a server that answers, refuses, or ends the connection."""

import math
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.gpu.scoring import Refused, ScoringClient


async def completions(request: web.Request) -> web.Response:
    body = await request.json()
    if body["model"] == "refused":
        return web.json_response({"error": {"code": "adapter_quarantined"}}, status=503)
    if body["model"] == "cut":
        assert request.transport is not None
        request.transport.abort()
    if body["model"] == "nan":
        return web.Response(text='{"choices": [', content_type="application/json")
    tokens = body["prompt"]
    choice: dict[str, Any] = {
        "prompt_logprobs": [None, *({str(token): {"logprob": -token / 10}} for token in tokens[1:])],
        "token_ids": [3] * body["max_tokens"],
        "logprobs": {"token_logprobs": [-0.5] * body["max_tokens"]},
    }
    return web.json_response({"choices": [choice]})


async def tokenize(_: web.Request) -> web.Response:
    return web.json_response({"max_model_len": 4096})


@pytest.fixture
async def client() -> Any:
    application = web.Application()
    application.router.add_post("/v1/completions", completions)
    application.router.add_post("/tokenize", tokenize)
    async with TestServer(application) as server:
        yield ScoringClient(str(server.make_url("/")).rstrip("/"))


async def test_the_logprobs_of_all_prompts_are_returned(client: ScoringClient) -> None:
    assert await client.score("base", [[1, 2, 3], [4, 5]]) == [[-0.2, -0.3], [-0.5]]
    assert await client.generate("base", [1, 2], 3) == ([3, 3, 3], [-0.5, -0.5, -0.5])
    assert await client.max_context("base") == 4096


async def test_a_refusal_has_status_and_reason(client: ScoringClient) -> None:
    found = await client.score("refused", [[1, 2]])
    assert isinstance(found, Refused)
    assert found.status == 503
    assert "adapter_quarantined" in found.reason


@pytest.mark.parametrize("model", ["cut", "nan"])
async def test_an_answer_that_is_cut_off_is_a_refusal(client: ScoringClient, model: str) -> None:
    assert isinstance(await client.score(model, [[1, 2]]), Refused)
    [logprob] = await client.first_tokens(model, [[1, 2]])
    assert math.isnan(logprob)
