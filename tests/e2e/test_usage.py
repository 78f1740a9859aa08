"""The usage ledger with the real engine: charges match the work, and all time is accounted for."""

import asyncio
import time
from typing import Any

import pytest

from tests.conftest import RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

DOLLARS_PER_SECOND = 1.0
"""Prices of the `real` fixture, in dollars: 1 and 2 per million input and output tokens, 3,600 per GPU-hour."""


async def usage(real: RealServer, since: float, requests: int, **query: str) -> dict[str, Any]:
    """Return the usage report since then, once it has this many requests."""
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = (await real.http.get("/admin/usage", params={"since": since, **query})).json()
            if found["total"] and found["total"]["requests"] >= requests:
                return found
            await asyncio.sleep(0.1)


async def ask(real: RealServer, model: str, word_count: int, tokens: int) -> Any:
    content = " ".join(str(number * 37 % 1000) for number in range(word_count))
    return await real.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"{time.time()} {content}"}],
        max_tokens=tokens,
        extra_body={"ignore_eos": True},
    )


async def test_costs_of_requests_and_idle_time_add_up_to_the_engines_cost(real: RealServer) -> None:
    since = time.time()
    routes = [real.base.name, "support-intent", "order-json"]
    answers = await asyncio.gather(*(ask(real, routes[number % 3], 10, 5 + number) for number in range(12)))
    report = await usage(real, since, 12)
    by_name = {group["label"]["adapter"]: group for group in report["groups"]}
    assert {name: group["requests"] for name, group in by_name.items()} == {"": 4, "support-intent": 4, "order-json": 4}
    usages = [answer.usage for answer in answers]
    tokens = report["total"]["tokens"]
    assert (tokens["input"], tokens["output"]) == (
        sum(one.prompt_tokens for one in usages),
        sum(one.completion_tokens for one in usages),
    )
    price = 1000 * tokens["input"] + 2000 * tokens["output"]
    assert report["total"]["cost"]["price_list"]["nanodollars"] == price
    # Of all time: what a request owes is usages when it ends, which may be in the minute after the one that it ran in.
    engine = (await usage(real, since - 86_400, 12))["engine"]
    assert engine["requests_usd"] + engine["idle_usd"] == pytest.approx(
        engine["seconds"] * DOLLARS_PER_SECOND, rel=1e-6
    )
    assert 0 < engine["busy_seconds"] < engine["seconds"]


async def test_more_work_costs_more_engine_time(real: RealServer) -> None:
    since = time.time()
    await asyncio.gather(ask(real, real.base.name, 5, 64), ask(real, "support-intent", 5, 8))
    report = await usage(real, since, 2)
    cost = {group["label"]["route"]: group["cost"]["gpu_hour"]["nanodollars"] for group in report["groups"]}
    tokens = {group["label"]["route"]: group["tokens"] for group in report["groups"]}
    assert cost["base"] > cost["adapter"] > 0
    assert tokens["base"]["output"] == 64


async def test_a_cancelled_stream_is_charged_for_its_tokens(real: RealServer) -> None:
    since = time.time()
    stream = await real.client.chat.completions.create(
        model=real.base.name,
        messages=[{"role": "user", "content": f"{time.time()} count"}],
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        break
    await stream.close()
    (group,) = (await usage(real, since, 1))["groups"]
    assert group["outcomes"] == {"cancelled": 1}
    assert 0 < group["tokens"]["output"] < 200
    assert group["cost"]["gpu_hour"]["nanodollars"] > 0


async def test_streamed_and_plain_requests_of_equal_work_cost_the_same(real: RealServer) -> None:
    """T10: 4 streamed and 4 plain requests at once, on two adapters: equal costs of engine time within 5 %.

    The first request of a round has a step or two for itself, and rightly pays for them: each kind begins one round.
    """
    since, question = time.time(), f"{time.time()} count to a hundred"

    async def plain() -> None:
        await real.client.chat.completions.create(
            model="support-intent",
            messages=[{"role": "user", "content": question}],
            max_tokens=32,
            extra_body={"ignore_eos": True},
        )

    async def streamed() -> None:
        stream = await real.client.chat.completions.create(
            model="order-json",
            messages=[{"role": "user", "content": question}],
            max_tokens=32,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for _ in stream:
            pass

    for kinds in ((plain, streamed), (streamed, plain)):
        await asyncio.gather(*(kind() for kind in kinds * 4))
    groups = {group["label"]["adapter"]: group for group in (await usage(real, since, 16))["groups"]}
    costs = {name: groups[name]["cost"]["gpu_hour"]["nanodollars"] for name in ("support-intent", "order-json")}
    print("streamed / plain:", costs["order-json"] / costs["support-intent"])  # noqa: T201 - a measurement
    assert groups["support-intent"]["tokens"] == groups["order-json"]["tokens"]
    assert costs["order-json"] == pytest.approx(costs["support-intent"], rel=0.05)
