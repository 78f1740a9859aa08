"""Bursts of equal streams: the traffic by which two servers are compared.

A burst starts all its streams at once and lasts until the last one ends, so what it measures depends on nothing that
came before. Prompts differ from their first digits on, so that no prompt finds another one's prefix in the cache.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from numpy.random import Generator

from loramux_loadtests.client import Client, Reply
from loramux_loadtests.loadtest.prompts import conversation, random_prompts

SETTLE_SECONDS = 1.5
"""vLLM's worker looks for work without a pause for a second after its last step: on a machine of few cores that takes
one from whoever is measured next, and made every third burst's first token take a second instead of a third."""


class BurstFailedError(Exception):
    """A stream failed or had another length than asked for, so the burst is no measurement."""


@dataclass(frozen=True)
class Burst:
    """What one server did with one or more bursts of the same traffic."""

    throughput: float
    """Output tokens per second."""
    ttft: float
    """Median seconds to the first token."""
    tpot: float
    """Median seconds per output token after the first."""


@dataclass(frozen=True)
class Traffic:
    """How many streams a burst has, and how many tokens each must bring."""

    streams: int = 16
    tokens: int = 64


async def compare(
    clients: Mapping[str, Client], order: Sequence[str], models: Sequence[str], traffic: Traffic, chance: Generator
) -> dict[str, Burst]:
    """Load the servers in turn, in `order`; the n-th burst of each has the same prompts as the n-th of the others.

    Stream i asks for `models[i % len(models)]`. BurstFailedError if any stream fails.
    """
    turns = len(order) // len(clients)
    texts = [random_prompts(traffic.streams, chance) for _ in range(turns)]
    waiting = {name: iter(texts) for name in clients}
    bursts: dict[str, list[list[Reply]]] = {name: [] for name in clients}
    for name in order:
        await asyncio.sleep(SETTLE_SECONDS)
        bursts[name].append(await burst(clients[name], models, next(waiting[name]), traffic.tokens))
    return {name: summary(replies) for name, replies in bursts.items()}


async def burst(client: Client, models: Sequence[str], texts: Sequence[str], tokens: int) -> list[Reply]:
    """All of `texts` at once, each answered with exactly `tokens` tokens."""
    return await asyncio.gather(*(ask(client, models[i % len(models)], text, tokens) for i, text in enumerate(texts)))


async def ask(client: Client, model: str, text: str, tokens: int) -> Reply:
    """One stream of exactly `tokens` tokens; BurstFailedError if it is anything else."""
    # With its ids every token is an event, also one that has no text, so that the moments are the engine's steps.
    reply = await client.chat(
        model, conversation(text), max_tokens=tokens, ignore_eos=True, extra={"return_token_ids": True}
    )
    if not reply.ok or reply.output_tokens != tokens:
        raise BurstFailedError(f"{client.url}: {reply.error or f'{reply.output_tokens} tokens, not {tokens}'}")
    return reply


def summary(bursts: Sequence[Sequence[Reply]]) -> Burst:
    """The bursts of one server as one measurement."""
    seconds = sum(max(reply.last for reply in replies) - min(reply.sent for reply in replies) for replies in bursts)
    replies = [reply for replies in bursts for reply in replies]
    return Burst(
        throughput=sum(reply.output_tokens for reply in replies) / seconds,
        ttft=median(reply.ttft for reply in replies if reply.ttft is not None),
        tpot=median(reply.tpot for reply in replies if reply.tpot is not None),
    )
