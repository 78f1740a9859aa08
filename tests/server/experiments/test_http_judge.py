import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loramux_adapters.evaluation.scorers.base import ScoringError
from loramux_server.experiments.http_judge import MAX_REPLY_BYTES, HttpJudge

MESSAGES = [{"role": "user", "content": "grade"}]


def judge_that(respond: Callable[[httpx.Request], httpx.Response], url: str = "http://judge:9/v1") -> HttpJudge:
    return HttpJudge(url, SecretStr("secret"), httpx.MockTransport(respond))


def says(content: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize("url", ["http://judge:9", "http://judge:9/", "http://judge:9/v1", "http://judge:9/v1/"])
async def test_the_judge_is_asked_with_its_key_and_for_json(url: str) -> None:
    asked: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=says('{"grade": 4}'))

    assert await judge_that(respond, url)("gpt", MESSAGES) == '{"grade": 4}'
    [request] = asked
    assert str(request.url) == "http://judge:9/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    body = json.loads(request.content)
    assert (body["model"], body["messages"], body["response_format"]["type"]) == ("gpt", MESSAGES, "json_schema")


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(500, text="secret details"),
        httpx.Response(302, headers={"location": "http://elsewhere/"}),
        httpx.Response(200, text="no json"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json=says(None)),
        httpx.Response(200, json=says("x" * (MAX_REPLY_BYTES + 1))),
    ],
)
async def test_a_judge_that_does_not_answer_is_a_scoring_error_without_its_texts(response: httpx.Response) -> None:
    with pytest.raises(ScoringError, match="the judge") as failed:
        await judge_that(lambda _: response)("gpt", MESSAGES)
    assert "secret" not in str(failed.value)


async def test_a_judge_that_can_not_be_reached_is_a_scoring_error() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ScoringError, match="ConnectError"):
        await judge_that(respond)("gpt", MESSAGES)
