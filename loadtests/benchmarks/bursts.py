"""Bursts of equal streams: the traffic that compares two servers.

A burst starts all its streams simultaneously and lasts until the last one ends, so it does not depend on earlier
traffic. Prompts differ from the first digit on, so that none finds the prefix of another one in the cache.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from numpy.random import Generator

from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.loadtest.prompts import conversation, random_prompts

SETTLE_SECONDS = 1.5
"""vLLM's worker polls without pause for a second after its last step. On a machine with few cores it takes one from the
next measurement: the first token of every third burst took a second instead of a third of one."""


class BurstFailedError(Exception):
    """A stream failed or had another length than requested, so the burst is not a valid measurement."""


@dataclass(frozen=True)
class BurstResult:
    """The results of one server for one or several bursts."""

    throughput: float
    """Output tokens per second."""
    ttft: float
    """Median seconds to the first token."""
    tpot: float
    """Median seconds per output token after the first."""


@dataclass(frozen=True)
class BurstTraffic:
    """The number of streams per burst, and of output tokens per stream."""

    streams: int = 16
    tokens: int = 64


async def settle() -> None:
    """Wait until an idle engine has stopped polling."""
    await asyncio.sleep(SETTLE_SECONDS)


async def run_bursts_in_turn(
    clients: Mapping[str, ChatClient],
    order: Sequence[str],
    models: Sequence[str],
    traffic: BurstTraffic,
    rng: Generator,
) -> dict[str, BurstResult]:
    """Run bursts on the servers in this `order`. The n-th burst of each server has the same prompts.

    Stream i requests `models[i % len(models)]`.

    Raises:
        BurstFailedError: a stream failed.
    """
    turns = len(order) // len(clients)
    texts = [random_prompts(traffic.streams, rng) for _ in range(turns)]
    waiting = {name: iter(texts) for name in clients}
    bursts: dict[str, list[list[ChatReply]]] = {name: [] for name in clients}
    for name in order:
        await settle()
        bursts[name].append(await run_burst(clients[name], models, next(waiting[name]), traffic.tokens))
    return {name: summarize_bursts(replies) for name, replies in bursts.items()}


async def run_burst(client: ChatClient, models: Sequence[str], texts: Sequence[str], tokens: int) -> list[ChatReply]:
    """Send all prompts simultaneously, each answered with exactly `tokens` tokens."""
    return await asyncio.gather(
        *(stream_tokens(client, models[i % len(models)], text, tokens) for i, text in enumerate(texts))
    )


async def stream_tokens(client: ChatClient, model: str, text: str, tokens: int) -> ChatReply:
    """Stream an answer of exactly `tokens` tokens.

    Raises:
        BurstFailedError: the request failed, or the answer has another length.
    """
    # With token ids every token is an event, even one without text, so event times are the engine's steps.
    reply = await client.chat(
        model, conversation(text), max_tokens=tokens, ignore_eos=True, extra={"return_token_ids": True}
    )
    if not reply.ok or reply.output_tokens != tokens:
        raise BurstFailedError(f"{client.url}: {reply.error or f'{reply.output_tokens} tokens, expected {tokens}'}")
    return reply


def summarize_bursts(bursts: Sequence[Sequence[ChatReply]]) -> BurstResult:
    """Summarize the bursts of one server."""
    seconds = sum(max(reply.last for reply in replies) - min(reply.sent for reply in replies) for replies in bursts)
    replies = [reply for replies in bursts for reply in replies]
    return BurstResult(
        throughput=sum(reply.output_tokens for reply in replies) / seconds,
        ttft=median(reply.ttft for reply in replies if reply.ttft is not None),
        tpot=median(reply.tpot for reply in replies if reply.tpot is not None),
    )
