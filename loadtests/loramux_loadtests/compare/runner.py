"""Every item through every arm, in turns; what has been answered already is not asked again."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from secrets import token_hex

from loramux_loadtests.client import Client, Reply
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.plan import Arm, Comparison, Pass
from loramux_loadtests.compare.rows import Answer, Journal, Turn

Done = Callable[[], None]

ROUNDS, TURNS = 4, 8
"""How many times `at_once` an arm's turn is long, and how many turns it has at least, if it has items for both: short
enough to share a machine's moods and to tell how its time varies, long enough to fill it."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is run: `at_once` requests of one arm are under way, in an order that `seed` draws."""

    passes: Sequence[Pass] = ("warm",)
    at_once: int = 4
    seed: int = 0


def passes_of(words: str) -> tuple[Pass, ...]:
    """Read `cold`, `warm` or both with a comma; raises ValueError for anything else."""
    known: dict[str, Pass] = {"cold": "cold", "warm": "warm"}
    try:
        return tuple(known[word] for word in words.split(","))
    except KeyError as error:
        raise ValueError(f"{error} is no pass: cold and warm are") from error


def missing(comparison: Comparison, journal: Journal, name: str) -> dict[int, list[Arm]]:
    """The arms of a pass that have not answered yet, by the items' numbers."""
    answered = {(row.arm, row.item) for row in journal.answers if row.pass_ == name}
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
        clients = {arm.name: await stack.enter_async_context(_client(arm)) for arm in comparison.arms}
        asking = _Asking(comparison, settings, clients, journal, done)
        for name in settings.passes:
            await asking.all_of(name)


def _client(arm: Arm) -> Client:
    return Client(arm.url, arm.api_key.get_secret_value() if arm.api_key else None)


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
        numbers, at_once = draw.sample(list(left), len(left)), self.settings.at_once
        length = max(at_once, min(at_once * ROUNDS, len(numbers) // TURNS))
        for start in range(0, len(numbers), length):
            for arm in draw.sample(arms, len(arms)):
                if asked := [number for number in numbers[start : start + length] if arm in left[number]]:
                    await self._turn(name, arm, asked)

    async def _turn(self, name: Pass, arm: Arm, numbers: Sequence[int]) -> None:
        places = asyncio.Semaphore(self.settings.at_once)

        async def one(number: int) -> float:
            async with places:
                reply = await self._reply(name, arm, number)
            self.journal.add(_answer(arm, number, name, reply))
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
        self.journal.took(name, arm.name, Turn(ended - began, len(numbers)))

    async def _reply(self, name: Pass, arm: Arm, number: int) -> Reply:
        client, comparison = self.clients[arm.name], self.comparison
        # A salt is a part of what vLLM's prefix cache knows a prefix by, so nothing is found under a new one.
        salt = {"cache_salt": token_hex(16)} if name == "cold" else None
        messages = [*arm.prompt, *comparison.items[number].messages]
        reply = await client.chat(arm.model, messages, max_tokens=comparison.max_tokens, extra=salt)
        if not reply.ok:
            raise ComparisonError(f"{arm.name} ({arm.model} at {client.url}): {reply.error}")
        return reply


def _answer(arm: Arm, number: int, name: Pass, reply: Reply) -> Answer:
    return Answer(
        pass_=name,
        arm=arm.name,
        item=number,
        text=reply.text,
        input_tokens=reply.input_tokens,
        cached_tokens=reply.cached_tokens,
        output_tokens=reply.output_tokens,
        ttft=reply.ttft,
        tpot=reply.tpot,
        seconds=reply.duration,
    )
