"""Limits on a whole server: refused like OpenAI refuses, reserved at the start, settled at the end, and kept."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

PRICES = {"base": {"input": 1, "output": 2}}
ADMIN = "administrator"
KEYS = [f"secret-{number}" for number in range(50)]
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    root = tmp_path_factory.mktemp("shared")
    async with tiny_server(root, tiny_base, prices=PRICES, keys=(ADMIN, *KEYS)) as server:
        server.http.headers["authorization"] = f"Bearer {ADMIN}"
        await server.add("tone")
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(shared: TinyServer) -> AsyncIterator[TinyServer]:
    """The shared server, asked with a key that has used nothing, and without limits at the end of each test."""
    yield replace(shared, client=shared.client.with_options(api_key=KEYS.pop()))
    for one in (await shared.http.get("/admin/limits")).json()["data"]:
        await shared.http.delete(f"/admin/limits/{one['kind']}/{one['name']}")


def own_key(tiny: TinyServer) -> str:
    """Return the subject of the client's key."""
    return f"key:key_{hashlib.sha256(tiny.client.api_key.encode()).hexdigest()[:12]}"


async def limit(tiny: TinyServer, subject: str | None = None, **limits: Any) -> None:
    kind, _, name = (subject or own_key(tiny)).partition(":")
    response = await tiny.http.put(f"/admin/limits/{kind}/{name}", json=limits)
    assert response.status_code == 200, response.text


async def ask(tiny: TinyServer, model: str | None = None, **options: Any) -> Any:
    return await tiny.client.chat.completions.with_raw_response.create(
        model=model or tiny.server.base_name,
        messages=[{"role": "user", "content": "hello"}],
        **{"max_tokens": 5} | options,
    )


async def refused(tiny: TinyServer, model: str | None = None, **options: Any) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(tiny, model, **options)
    return caught.value


async def used(tiny: TinyServer, subject: str | None = None) -> dict[str, Any]:
    """Return what the client's key, or `subject`, has used, when none of its requests runs any more."""
    kind, _, name = (subject or own_key(tiny)).partition(":")
    async with asyncio.timeout(10):
        while True:
            listed = (await tiny.http.get("/admin/limits")).json()["data"]
            found: dict[str, Any] = next(one["used"] for one in listed if (one["kind"], one["name"]) == (kind, name))
            if not found["running_requests"]:
                return found
            await asyncio.sleep(0.01)


async def test_a_response_says_what_is_left_of_the_limits(tiny: TinyServer) -> None:
    assert not [name for name in (await ask(tiny)).headers if name.startswith("x-ratelimit")]
    await limit(tiny, requests_per_minute=60, tokens_per_minute=6000)
    headers = (await ask(tiny)).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("60", "59")
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("6000", "5972")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_beyond_a_limit_gets_openais_error(tiny: TinyServer, *, stream: bool) -> None:
    await limit(tiny, requests_per_minute=1)
    await ask(tiny)
    error = await refused(tiny, stream=stream)
    assert (error.code, error.type, error.response.headers["retry-after"]) == ("rate_limit_exceeded", "requests", "60")
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert own_key(tiny).replace(":", " ") in error.message
    assert "requests per minute: limit 1, used 1" in error.message


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_reserved_at_the_start_and_settled_at_the_end(tiny: TinyServer, *, stream: bool) -> None:
    await limit(tiny, tokens_per_day=150)
    error = await refused(tiny, max_tokens=128, stream=stream)  # and 23 of the prompt
    assert (error.code, error.type) == ("rate_limit_exceeded", "tokens")
    assert error.response.headers["x-should-retry"] == "false"
    assert "limit 150, used 0, requested 151" in error.message
    await ask(tiny, max_tokens=127)
    assert await used(tiny) == {
        "tokens_today": 150,
        "tokens_this_month": 150,
        "usd_today": 0.000277,
        "usd_this_month": 0.000277,
        "running_requests": 0,
        "reserved_tokens": 0,
    }


async def test_each_prompt_and_each_answer_of_a_request_counts(tiny: TinyServer) -> None:
    await limit(tiny, tokens_per_day=10_000)
    name = tiny.server.base_name
    await tiny.client.completions.create(model=name, prompt=["a", "bc"], n=2, max_tokens=5)
    assert (await used(tiny))["tokens_today"] == 3 + 2 * 2 * 5


@pytest.mark.parametrize("kind", ["adapter:tone", "own"])
async def test_a_beam_search_is_refused_beyond_a_budget(tiny: TinyServer, kind: str) -> None:
    await limit(tiny, *([kind] if kind != "own" else []), tokens_per_day=40)
    beams = {"n": 4, "extra_body": {"use_beam_search": True}}
    error = await refused(tiny, "tone", max_tokens=5, **beams)
    assert "requested 43" in error.message  # 23 of the prompt, and four beams of 5
    await ask(tiny, "tone")


async def test_a_beam_search_counts_what_it_has_used(tiny: TinyServer) -> None:
    await limit(tiny, "adapter:tone", tokens_per_day=10**6)
    await limit(tiny, tokens_per_day=10**6)
    await ask(tiny, "tone")
    before = (await used(tiny, "adapter:tone"))["tokens_today"]
    answer = await tiny.chat("tone", max_tokens=5, n=2, extra_body={"use_beam_search": True})
    assert (await used(tiny, "adapter:tone"))["tokens_today"] == before + answer.usage.total_tokens
    assert (await used(tiny))["tokens_today"] == 28 + answer.usage.total_tokens


async def test_an_answer_without_a_maximum_reserves_what_is_set(tiny: TinyServer) -> None:
    await limit(tiny, tokens_per_day=200)
    assert "requested 256" in (await refused(tiny, max_tokens=None)).message  # the rest of the context: less than 1024


async def test_dollars_are_counted_by_the_price_list(tiny: TinyServer) -> None:
    await limit(tiny, usd_per_day=0.000033)  # 23 tokens at 1 dollar per million, 5 at 2
    response = await ask(tiny)
    assert response.headers["x-litellm-response-cost"] == "0.000033000"
    assert (await used(tiny))["usd_today"] == 0.000033
    assert (await refused(tiny)).code == "insufficient_quota"


@pytest.mark.parametrize("subject", ["adapter:tone", "project:default", "project:*", "adapter:*"])
async def test_projects_and_adapters_have_limits_too(tiny: TinyServer, subject: str) -> None:
    await limit(tiny, subject, requests_per_minute=1, concurrent_requests=1)
    await ask(tiny, "tone")
    assert (await refused(tiny, "tone")).code == "rate_limit_exceeded"
    if subject.startswith("adapter"):
        await ask(tiny)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hello", "max_tokens": 5}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}),
    ],
)
async def test_every_way_to_generate_is_limited_and_priced(tiny: TinyServer, path: str, body: dict[str, Any]) -> None:
    await limit(tiny, tokens_per_day=50)
    headers = {"authorization": f"Bearer {tiny.client.api_key}"}
    answers = [await tiny.http.post(path, json={"model": "tone", **body}, headers=headers) for _ in range(9)]
    assert [answer.status_code for answer in (answers[0], answers[-1])] == [200, 429], answers[0].text
    assert answers[-1].json()["error"]["code"] == "insufficient_quota"
    assert float(answers[0].headers["x-litellm-response-cost"]) > 0
    assert 0 < (await used(tiny))["tokens_today"] <= 50


async def test_running_requests_are_limited_and_a_vanished_client_ends_its_own(tiny: TinyServer) -> None:
    await limit(tiny, concurrent_requests=1)
    tiny.engine.seconds_per_token = 0.05
    try:
        stream = await tiny.chat(tiny.server.base_name, stream=True, max_tokens=200)
        assert "concurrent requests" in (await refused(tiny)).message
        await stream.close()
        assert 23 <= (await used(tiny))["tokens_today"] < 223
        await ask(tiny, max_tokens=1)
    finally:
        tiny.engine.seconds_per_token = 0.0


async def test_many_requests_at_once_never_overspend(tiny: TinyServer) -> None:
    await limit(tiny, tokens_per_day=28 * 5)
    results = await asyncio.gather(*(ask(tiny) for _ in range(12)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert len(results) - len(refusals) <= 5
    assert (await used(tiny))["tokens_today"] <= 28 * 5


async def test_the_cost_is_in_the_usage_where_the_client_asks(tiny: TinyServer) -> None:
    plain = await tiny.chat("tone", max_tokens=5)
    assert not hasattr(plain.usage, "cost")
    asked = await tiny.chat("tone", max_tokens=5, extra_body={"usage": {"include": True}})
    assert (asked.usage.cost, asked.usage.prompt_tokens) == (0.000033, 23)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = [chunk async for chunk in await tiny.chat("tone", max_tokens=5, **options)]
    assert (last.usage.cost, last.choices) == (0.000033, [])
    assert not any(chunk.usage for chunk in chunks)


async def test_without_a_price_the_cost_is_left_out(tiny: TinyServer) -> None:
    await tiny.http.put("/admin/prices", json={"prices": {}})
    try:
        assert "x-litellm-response-cost" not in (await ask(tiny)).headers
        asked = await tiny.chat("tone", max_tokens=5, extra_body={"usage": {"include": True}})
        assert not hasattr(asked.usage, "cost")
    finally:
        await tiny.http.delete("/admin/prices")


@pytest.mark.parametrize("usage", [None, 1, "x", [], {"include": "yes"}, {"include": None}])
async def test_another_field_named_usage_changes_nothing(tiny: TinyServer, usage: object) -> None:
    asked = await tiny.chat("tone", max_tokens=5, extra_body={"usage": usage})
    assert not hasattr(asked.usage, "cost")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("key/a", {}),
        ("key/a", {"requests_per_minute": None}),
        ("key/a", {"requests_per_minute": -1}),
        ("key/a", {"requests_per_minute": 10**30}),
        ("key/a", {"requests_per_minute": "x" * 1000}),
        ("key/a", {"usd_per_day": "Infinity"}),
        ("key/a", {"usd_per_day": 1e300}),
        ("key/a", {"rpm": 1}),
        ("key/a", []),
        ("owner/a", {"requests_per_minute": 1}),
        ("key/a%0Ab", {"requests_per_minute": 1}),
        ("key/%00", {"requests_per_minute": 1}),
        ("key/" + "a" * 129, {"requests_per_minute": 1}),
        ("key/a*", {"requests_per_minute": 1}),
    ],
)
async def test_an_invalid_limit_is_refused(tiny: TinyServer, path: str, body: object) -> None:
    response = await tiny.http.put(f"/admin/limits/{path}", json=body)
    assert response.status_code in (400, 404), response.text  # no route has a line break
    assert response.json()["error"]["message"]


async def test_a_limit_that_is_not_set_can_not_be_removed(tiny: TinyServer) -> None:
    response = await tiny.http.delete("/admin/limits/key/nobody")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "limit_not_found")


async def command(tiny: TinyServer, *arguments: str) -> Any:
    runner = CliRunner(env={"COLUMNS": "200"})
    return await asyncio.to_thread(runner.invoke, app, ["limit", *arguments, "--url", tiny.url, "--api-key", ADMIN])


async def test_the_command_changes_single_limits(tiny: TinyServer) -> None:
    assert (await command(tiny, "set", "key:a", "requests_per_minute=7", "usd_per_day=0.5")).exit_code == 0
    assert (await command(tiny, "set", "key:a", "requests_per_minute=", "tokens_per_day=9")).exit_code == 0
    (one,) = (await tiny.http.get("/admin/limits")).json()["data"]
    assert one["limits"] == {"tokens_per_day": 9, "usd_per_day": "0.5"}
    listed = (await command(tiny, "list")).output
    assert "key a" in listed
    assert f"set by {one['by']}" in listed
    assert "tokens_per_day=9" in listed
    assert "removed the limits of key a" in (await command(tiny, "remove", "key:a")).output
    assert "no limits" in (await command(tiny, "list")).output


@pytest.mark.parametrize(
    "arguments", [("key", "requests_per_minute=1"), ("x:y", "a=1"), ("key:a", "rpm=1"), ("key:a", "x")]
)
async def test_the_command_says_what_it_expects(tiny: TinyServer, arguments: tuple[str, ...]) -> None:
    result = await command(tiny, "set", *arguments)
    assert (result.exit_code, "expected" in result.output) == (1, True)


async def test_limits_and_budgets_survive_a_restart(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    settings: Any = {"prices": PRICES, "limits": {"keys": {"*": {"requests_per_minute": 100}}}}
    async with tiny_server(tmp_path, tiny_base, **settings) as server:
        await limit(server, "key:anonymous", tokens_per_day=50)
        await ask(server)
    async with tiny_server(tmp_path, tiny_base, **settings) as server:
        assert "limit 50, used 28, requested 28" in (await refused(server)).message
        headers = (await refused(server)).response.headers
        assert headers["x-ratelimit-limit-requests"] == "100"
