"""Asks every item of every arm, in alternating batches; answers that the log already has are not asked again."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from loramux_adapters.evaluation.items import Item
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.compare.answer_log import AnswerLog, Batch, MeasuredAnswer
from loramux_loadtests.compare.errors import RequestFailedError
from loramux_loadtests.compare.items import add_prompt
from loramux_loadtests.compare.plan import Arm, Comparison, Pass

OnAnswer = Callable[[], None]

BATCH_ROUNDS, MIN_BATCHES = 4, 12
"""A batch has BATCH_ROUNDS times `concurrency` items, or fewer so that each arm has MIN_BATCHES: short enough that all
arms share slow periods of the machine and that its time has an interval, long enough to keep it busy."""


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run: concurrent requests, of one arm at a time, and the random seed of their order."""

    passes: Sequence[Pass] = ("warm",)
    concurrency: int = 4
    seed: int = 0


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Parse `cold`, `warm` or both, separated by a comma.

    Raises:
        ValueError: a pass is unknown.
    """
    known: dict[str, Pass] = {"cold": "cold", "warm": "warm"}
    try:
        return tuple(known[name] for name in text.split(","))
    except KeyError as error:
        raise ValueError(f"unknown pass {error}; expected cold, warm or cold,warm") from error


def unanswered(comparison: Comparison, log: AnswerLog, name: str) -> dict[int, list[Arm]]:
    """The arms that have not answered an item yet in this pass, by the items' numbers."""
    answered = {(answer.arm, answer.item) for answer in log.answers if answer.pass_ == name}
    left = {
        number: [arm for arm in comparison.arms if (arm.name, number) not in answered]
        for number in range(len(comparison.items))
    }
    return {number: arms for number, arms in left.items() if arms}


async def run_comparison(comparison: Comparison, settings: RunSettings, log: AnswerLog, on_answer: OnAnswer) -> None:
    """Ask until the log has every answer, and call `on_answer` after each.

    The arms alternate on the same few items, in a new random order each time: a machine that gets slower does so for
    all of them, and yet no answer waits for another arm's longer prompt.

    Raises:
        RequestFailedError: a request failed; the log keeps the answers before it.
    """
    async with AsyncExitStack() as stack:
        clients = {arm.name: await stack.enter_async_context(_client(arm)) for arm in comparison.arms}
        runner = _Runner(comparison, settings, clients, log, on_answer)
        for name in settings.passes:
            await runner.run_pass(name)


def _client(arm: Arm) -> ChatClient:
    return ChatClient(arm.url, arm.api_key.get_secret_value() if arm.api_key else None)


@dataclass(frozen=True)
class _Runner:
    """The state that all requests of a comparison share."""

    comparison: Comparison
    settings: RunSettings
    clients: Mapping[str, ChatClient]
    log: AnswerLog
    on_answer: OnAnswer

    async def run_pass(self, name: Pass) -> None:
        """Ask the unanswered items of a pass, batch by batch."""
        rng = random.Random(self.settings.seed)  # noqa: S311 - an order, not a secret
        arms, pending = self.comparison.arms, unanswered(self.comparison, self.log, name)
        numbers, concurrency = rng.sample(list(pending), len(pending)), self.settings.concurrency
        length = max(concurrency, min(concurrency * BATCH_ROUNDS, len(numbers) // MIN_BATCHES))
        for start in range(0, len(numbers), length):
            for arm in rng.sample(arms, len(arms)):
                if asked := [number for number in numbers[start : start + length] if arm in pending[number]]:
                    await self._run_batch(name, arm, asked)

    async def _run_batch(self, name: Pass, arm: Arm, numbers: Sequence[int]) -> None:
        semaphore = asyncio.Semaphore(self.settings.concurrency)

        async def one(number: int) -> float:
            async with semaphore:
                reply = await self._ask(name, arm, number)
            self.log.add(_measured_answer(arm, number, name, reply))
            self.on_answer()
            return reply.last

        started = time.monotonic()
        tasks = [asyncio.ensure_future(one(number)) for number in numbers]
        try:
            ended = max(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.log.add_batch(name, arm.name, Batch(ended - started, len(numbers)))

    async def _ask(self, name: Pass, arm: Arm, number: int) -> ChatReply:
        client, comparison = self.clients[arm.name], self.comparison
        # The salt is part of the key of vLLM's prefix cache, so that nothing is found under a new one.
        salt = {"cache_salt": token_hex(16)} if name == "cold" else {}
        item = comparison.items[number]
        messages, tools = add_prompt(arm.prompt, item.messages), _tool_fields(item)
        reply = await client.chat(arm.model, messages, max_tokens=comparison.max_tokens, extra={**salt, **tools})
        if not reply.ok:
            message = f"{arm.name} ({arm.model} at {client.url}): {reply.error}"
            raise RequestFailedError(message, arm.name, reply.status)
        return reply


def _tool_fields(item: Item) -> dict[str, Any]:
    """Return the fields of a request that allow calls, as they are fields of the line."""
    if not item.tools:
        return {}
    return {"tools": item.tools} | ({} if item.parallel_tool_calls else {"parallel_tool_calls": False})


def _measured_answer(arm: Arm, number: int, name: Pass, reply: ChatReply) -> MeasuredAnswer:
    return MeasuredAnswer(
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
        finish_reason=reply.finish_reason,
    )
