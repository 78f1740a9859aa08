"""Requests of light users next to a flood, and the goodput of an overload."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from benchmarks.bursts import BurstFailedError, settle
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.loadtest.prompts import conversation, random_prompts
from loramux_loadtests.servers import ServerSetup, loramux_spec, running
from loramux_loadtests.synthetic_adapters import write_adapters

KEYS = ("flooding-key", "light-key")
FLOOD_FACTOR, OVERLOAD_FACTOR = 10, 5
"""Requests in flight, as multiples of the sequences that the engine runs."""
TOKENS = (16, 112)
"""Tokens of the answers to a flood, drawn evenly: answers of one length would end in waves, all at the same step."""
LIGHT_TOKENS = 16
PERIOD_SECONDS = 1.0
RETRY_SECONDS = 0.5
ADAPTERS, RANK = 21, 8


@dataclass
class Flood:
    """Keeps many requests in flight; each that is refused is sent again a little later."""

    client: ChatClient
    model: str
    in_flight: int
    replies: list[ChatReply] = field(default_factory=list)
    refused: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Flood while the context lasts."""
        tasks = [asyncio.create_task(self._ask(seed)) for seed in range(self.in_flight)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, seed: int) -> None:
        rng = default_rng(seed)
        while True:
            reply = await ask(self.client, self.model, random_prompts(1, rng)[0], int(rng.integers(*TOKENS)))
            if reply.ok:
                self.replies.append(reply)
            else:
                self.refused += 1
                await asyncio.sleep(RETRY_SECONDS)

    def tokens_per_second(self, start: float, end: float) -> float:
        """Return the tokens of the answers that were completed in a time."""
        return sum(reply.output_tokens for reply in self.replies if start <= reply.last < end) / (end - start)


async def ask(client: ChatClient, model: str, prompt: str, tokens: int = LIGHT_TOKENS) -> ChatReply:
    """Send one request."""
    return await client.chat(model, conversation(prompt), max_tokens=tokens, ignore_eos=True)


async def light_ttfts(client: ChatClient, models: Sequence[str], seconds: float) -> list[float]:
    """Ask once per PERIOD_SECONDS, the models in turn; return the times to the first token.

    Raises:
        BurstFailedError: a request failed.
    """
    rng, started, tasks = default_rng(12345), time.monotonic(), []
    for number in count():
        if number * PERIOD_SECONDS >= seconds:
            break
        await asyncio.sleep(max(0.0, started + number * PERIOD_SECONDS - time.monotonic()))
        prompt = random_prompts(1, rng)[0]
        tasks.append(asyncio.create_task(ask(client, models[number % len(models)], prompt)))
    replies = await asyncio.gather(*tasks)
    if failed := next((reply for reply in replies if reply.ttft is None), None):
        raise BurstFailedError(f"{client.url}: {failed.error}")
    return [reply.ttft for reply in replies if reply.ttft is not None]


async def measure_flood(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, seconds: float
) -> BenchmarkReport:
    """Measure the p95 time to first token of a key that asks once per second, alone and next to one that floods."""
    base = setup.base.name
    return await _measure_light(setup, scratch, progress, base, [base], KEYS[1], seconds, 1.5, "another key floods")


async def measure_hot_adapter(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, seconds: float
) -> BenchmarkReport:
    """Measure the p95 time to first token of twenty adapters, alone and next to a hot one of the same key."""
    adapters = write_adapters(scratch / "adapters", setup.base, ADAPTERS, rank=RANK)
    hot, *others = adapters
    setup = replace(setup, adapters=adapters, engine={"max_cpu_loras": 8} | dict(setup.engine))
    return await _measure_light(setup, scratch, progress, hot, others, KEYS[0], seconds, 2.0, "another adapter floods")


async def _measure_light(
    setup: ServerSetup,
    scratch: Path,
    progress: StepProgress,
    flooded: str,
    models: Sequence[str],
    key: str,
    seconds: float,
    goal: float,
    what: str,
) -> BenchmarkReport:
    setup = _with_keys(setup)
    progress.set_total(3)
    progress.begin("start")
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "server.log") as server,
        ChatClient(server.url, KEYS[0]) as flooding,
        ChatClient(server.url, key) as light,
    ):
        await light_ttfts(light, models, 2 * len(models))
        await settle()
        progress.begin("alone")
        alone = await light_ttfts(light, models, seconds)
        flood = Flood(flooding, flooded, FLOOD_FACTOR * int(setup.engine["max_num_seqs"]))
        progress.begin("flooded")
        async with flood.running():
            await asyncio.sleep(min(20.0, seconds / 2))
            start = time.monotonic()
            during = await light_ttfts(light, models, seconds)
            rate = flood.tokens_per_second(start, time.monotonic())
    p95 = [float(np.quantile(values, 0.95)) for values in (alone, during)]
    return BenchmarkReport(
        f"Time to first token while {what}",
        f"One request of {LIGHT_TOKENS} tokens per second, for {seconds:g} seconds alone and as long next to "
        f"{flood.in_flight} requests in flight for {TOKENS[0]} to {TOKENS[1]} tokens, of which each that is refused is "
        "sent again.",
        [
            Metric("p95 time to first token, flooded / alone", spread([p95[1] / p95[0]]), at_most=goal),
            Metric("p95 time to first token, alone", spread([p95[0]]), "s"),
            Metric("p95 time to first token, flooded", spread([p95[1]]), "s"),
            Metric("output of the flood", spread([rate]), "tokens/s"),
        ],
        {"seconds": seconds, "refused": flood.refused, **setup.engine},
        [{"alone": alone, "flooded": during}],
    )


async def measure_overload(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, seconds: float
) -> BenchmarkReport:
    """Measure the goodput with five times as many requests as the engine runs, relative to as many as it runs."""
    setup = _with_keys(setup)
    sequences = int(setup.engine["max_num_seqs"])
    progress.set_total(3)
    progress.begin("start")
    rates: list[float] = []
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "server.log") as server,
        ChatClient(server.url, KEYS[0]) as client,
    ):
        for factor in (1, OVERLOAD_FACTOR):
            progress.begin(f"{factor} times")
            flood = Flood(client, setup.base.name, factor * sequences)
            async with flood.running():
                await asyncio.sleep(min(20.0, seconds / 2))
                start = time.monotonic()
                await asyncio.sleep(seconds)
                rates.append(flood.tokens_per_second(start, time.monotonic()))
    return BenchmarkReport(
        "Goodput of an overload",
        f"Tokens per second of complete answers of {TOKENS[0]} to {TOKENS[1]} tokens, with {sequences} requests in "
        f"flight, which the engine runs at once, and with {OVERLOAD_FACTOR} times as many.",
        [
            Metric("goodput, overload / peak", spread([rates[1] / rates[0]]), at_least=0.9),
            Metric("goodput at the peak", spread([rates[0]]), "tokens/s"),
            Metric("goodput of the overload", spread([rates[1]]), "tokens/s"),
        ],
        {"seconds": seconds, "refused": flood.refused, **setup.engine},
        [{"rates": rates}],
    )


def _with_keys(setup: ServerSetup) -> ServerSetup:
    adapters = json.dumps({name: str(folder) for name, folder in setup.adapters.items()})
    own = {"LORAMUX_API_KEYS": ",".join(KEYS), "LORAMUX_ADAPTERS": adapters}
    return replace(setup, environment={**setup.environment, **own})
