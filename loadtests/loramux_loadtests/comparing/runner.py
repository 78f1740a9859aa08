"""Every item through every arm, in turns; what has been answered already is not asked again."""

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
from loramux_loadtests.comparing.rows import Journal, Row, Turns
from loramux_loadtests.scorers import ScoringError

Done = Callable[[], None]

ROUNDS = 4
"""How many times `at_once` an arm's turn is long: short enough to share a machine's moods, long enough to fill it."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is run: `at_once` requests of one arm are under way, in an order that `seed` draws."""

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

    The arms take turns on the same few items, in an order drawn anew each time: a machine that gets slower is so for
    all, and yet no answer waits for another arm's longer prompt.
    """
    async with AsyncExitStack() as stack:
        urls = {arm.url for arm in comparison.arms}
        clients = {url: await stack.enter_async_context(Client(url, settings.api_key)) for url in urls}
        asking = _Asking(comparison, settings, clients, journal, done)
        for name in settings.passes:
            await asking.all_of(name)


@dataclass(frozen=True)
class _Asking:
    """What all requests of a comparison have in common."""

    comparison: Comparison
    settings: Settings
    clients: Mapping[str, Client]
    journal: Journal
    done: Done

    async def all_of(self, name: Pass) -> None:
        """A pass: turn after turn, of what is missing."""
        draw = random.Random(self.settings.seed)  # noqa: S311 - an order, not a secret
        arms, left = self.comparison.arms, missing(self.comparison, self.journal, name)
        numbers, length = draw.sample(list(left), len(left)), self.settings.at_once * ROUNDS
        for start in range(0, len(numbers), length):
            for arm in draw.sample(arms, len(arms)):
                if asked := [number for number in numbers[start : start + length] if arm in left[number]]:
                    await self._turn(name, arm, asked)

    async def _turn(self, name: Pass, arm: Arm, numbers: Sequence[int]) -> None:
        answering, scoring = (asyncio.Semaphore(self.settings.at_once) for _ in range(2))

        async def one(number: int) -> float:
            async with answering:
                reply = await self._reply(name, arm, number)
            async with scoring:  # which may take a judge's time, and is not the arm's
                scores, error = await _scored(self.comparison, self.comparison.items[number], reply.text)
            self.journal.add(_row(arm, number, name, reply, scores, error))
            self.done()
            return reply.last

        began = time.monotonic()
        tasks = [asyncio.ensure_future(one(number)) for number in numbers]
        try:
            ended = max(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.journal.took(name, arm.name, Turns(ended - began, len(numbers)))

    async def _reply(self, name: Pass, arm: Arm, number: int) -> Reply:
        client, comparison = self.clients[arm.url], self.comparison
        # A salt is a part of what vLLM's prefix cache knows a prefix by, so nothing is found under a new one.
        salt = {"cache_salt": token_hex(16)} if name == "cold" else None
        messages = [*arm.prompt, *comparison.items[number].messages]
        reply = await client.chat(arm.model, messages, max_tokens=comparison.max_tokens, extra=salt)
        if not reply.ok:
            raise ComparisonError(f"{arm.name} ({arm.model} at {client.url}): {reply.error}")
        return reply


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
