"""Every item through every arm, side by side; what has been answered already is not asked again."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from secrets import token_hex

from loramux_loadtests.client import Client, Reply
from loramux_loadtests.comparing.errors import ComparisonError
from loramux_loadtests.comparing.items import Item
from loramux_loadtests.comparing.plan import Arm, Comparison, Pass
from loramux_loadtests.comparing.rows import Journal, Row
from loramux_loadtests.scorers import ScoringError

Done = Callable[[], None]


@dataclass(frozen=True)
class Settings:
    """How a comparison is run: `at_once` items are under way at any time, in an order that `seed` draws."""

    passes: Sequence[Pass] = ("warm",)
    at_once: int = 4
    seed: int = 0
    api_key: str | None = None


def passes_of(words: str) -> tuple[Pass, ...]:
    """Read `cold`, `warm` or both with a comma; raises ValueError for anything else."""
    known: dict[str, Pass] = {"cold": "cold", "warm": "warm"}
    try:
        return tuple(known[word] for word in words.split(","))
    except KeyError as error:
        raise ValueError(f"{error} is no pass: cold and warm are") from error


def missing(comparison: Comparison, journal: Journal, name: str) -> dict[int, list[Arm]]:
    """The arms of a pass that have not answered yet, by the items' numbers."""
    answered = {(row.arm, row.item) for row in journal.rows if row.pass_ == name}
    left = {
        number: [arm for arm in comparison.arms if (arm.name, number) not in answered]
        for number in range(len(comparison.items))
    }
    return {number: arms for number, arms in left.items() if arms}


async def run(comparison: Comparison, settings: Settings, journal: Journal, done: Done) -> None:
    """Fill the journal; raises ComparisonError when a request fails, and keeps what was answered before.

    All arms of an item run at the same time, in an order drawn anew for each, so that a machine that gets slower or a
    cache that gets warmer is the same to all.
    """
    async with AsyncExitStack() as stack:
        urls = {arm.url for arm in comparison.arms}
        clients = {url: await stack.enter_async_context(Client(url, settings.api_key)) for url in urls}
        for name in settings.passes:
            began = time.monotonic()
            try:
                await _pass(comparison, settings, clients, journal, name, done)
            finally:
                journal.passed(name, time.monotonic() - began)


async def _pass(
    comparison: Comparison,
    settings: Settings,
    clients: Mapping[str, Client],
    journal: Journal,
    name: Pass,
    done: Done,
) -> None:
    places = asyncio.Semaphore(settings.at_once)
    draw = random.Random(settings.seed)  # noqa: S311 - an order, not a secret

    async def one(number: int, arms: Sequence[Arm]) -> None:
        async with places:
            await asyncio.gather(*(answer(number, arm) for arm in arms))

    async def answer(number: int, arm: Arm) -> None:
        journal.add(await _answered(clients[arm.url], comparison, arm, number, name))
        done()

    left = list(missing(comparison, journal, name).items())
    draw.shuffle(left)
    tasks = [asyncio.ensure_future(one(number, draw.sample(arms, len(arms)))) for number, arms in left]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answered(client: Client, comparison: Comparison, arm: Arm, number: int, name: Pass) -> Row:
    item = comparison.items[number]
    # A salt is a part of what vLLM's prefix cache knows a prefix by, so nothing is found under a new one.
    salt = {"cache_salt": token_hex(16)} if name == "cold" else None
    reply = await client.chat(arm.model, [*arm.prompt, *item.messages], max_tokens=comparison.max_tokens, extra=salt)
    if not reply.ok:
        raise ComparisonError(f"{arm.name} ({arm.model} at {client.url}): {reply.error}")
    scores, error = await _scored(comparison, item, reply.text)
    return _row(arm, number, name, reply, scores, error)


async def _scored(comparison: Comparison, item: Item, answer: str) -> tuple[dict[str, float], str | None]:
    question = "\n".join(message["content"] for message in item.messages)
    try:
        return await comparison.scorer.grade(question, answer, item.expected), None
    except ScoringError as error:
        return {}, str(error)


def _row(arm: Arm, number: int, name: Pass, reply: Reply, scores: dict[str, float], error: str | None) -> Row:
    return Row(
        pass_=name,
        arm=arm.name,
        item=number,
        text=reply.text,
        scores=scores,
        input_tokens=reply.input_tokens,
        cached_tokens=reply.cached_tokens,
        output_tokens=reply.output_tokens,
        ttft=reply.ttft,
        tpot=reply.tpot,
        seconds=reply.duration,
        error=error,
    )
