"""Latency cost of loading an adapter: for a concurrent stream, and for the request that waits for the adapter."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from numpy.random import Generator, default_rng

from benchmarks.bursts import BurstFailedError, settle, stream_tokens
from benchmarks.overhead.side_by_side import alternating_order, running_servers
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.servers import ServerSetup, ServerSpec, loramux_spec, stock_spec
from loramux_loadtests.synthetic_adapters import write_adapters

MAX_LORAS, MAX_CPU_LORAS = 4, 8
GAP_RANK, GAP_TOKENS, MAX_GAP_RATIO = 64, 96, 2.0
COLD_RANK, COLD_TOKENS, MAX_COLD_RATIO = 8, 4, 1.5
PROMPT_NUMBERS = {"short": 3, "long": 31}
"""Numbers per prompt, for about 30 and about 200 tokens including the chat template."""

LatencyRow = dict[str, float | str]


async def measure_gaps(setup: ServerSetup, scratch: Path, progress: StepProgress, *, loads: int) -> BenchmarkReport:
    """Measure the longest gap of a base stream relative to its median gap while an adapter of rank 64 is loaded."""
    setup = _with_more_adapters_than_fit(setup, loads, GAP_RANK, scratch)
    specs = _specs(setup, scratch)
    progress.set_total(len(specs) + loads)
    rows: list[LatencyRow] = []
    async with running_servers(specs, setup.adapters, scratch, progress) as clients:
        rng = default_rng(1)
        middles = {name: await _third_of_stream(client, setup.base.name, rng) for name, client in clients.items()}
        for number, adapter in enumerate(list(setup.adapters)[:loads]):
            progress.begin(f"load {number + 1} of {loads}")
            for name in alternating_order(list(clients), 1, first=number % 2):
                await settle()
                stream = _InterruptedStream(clients[name], setup.base.name, middles[name], rng)
                rows.append({"server": name, "cold": await stream.gap(adapter), "warm": await stream.gap(adapter)})
    return BenchmarkReport(
        "Gaps in a base stream while adapters load",
        f"During a base stream of {GAP_TOKENS} tokens, one token is requested from an adapter of rank "
        f"{GAP_RANK} on all "
        "linear modules, with a prompt of one token. The adapter is cold during the first stream, and warm during the "
        f"second, which shows how much of the gap is due to the request itself. {loads} adapters.",
        [metric for name in specs for metric in _gap_metrics(name, rows)],
        {"loads": loads, **setup.engine, **setup.environment},
        rows,
    )


async def measure_cold_start(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, count: int
) -> BenchmarkReport:
    """Measure the time to first token of a cold adapter relative to its second request, on an idle server."""
    setup = _with_more_adapters_than_fit(setup, count, COLD_RANK, scratch)
    specs = _specs(setup, scratch)
    progress.set_total(len(specs) + count * len(PROMPT_NUMBERS))
    rows: list[LatencyRow] = []
    async with running_servers(specs, setup.adapters, scratch, progress) as clients:
        rng = default_rng(2)
        for (length, numbers), adapter in itertools.product(PROMPT_NUMBERS.items(), setup.adapters):
            progress.begin(f"{adapter}, {length} prompts")
            for name, client in clients.items():
                await settle()
                models = (setup.base.name, adapter, adapter)  # the first request wakes an idle server
                _, first, second = [await _first_token(client, model, numbers, rng) for model in models]
                rows.append({"server": name, "prompt": length, "cold": first, "warm": second, "ratio": first / second})
    return BenchmarkReport(
        "First token of a cold adapter",
        f"{len(setup.adapters)} adapters of rank {COLD_RANK} on all linear modules, one after the other on an idle "
        "server: after a request to the base, one request while the adapter is cold, and one with another prompt while "
        "it is warm. No two prompts share a prefix. A short prompt has about 30 tokens, a long one about 200.",
        [
            metric
            for name, length in itertools.product(specs, PROMPT_NUMBERS)
            for metric in _cold_metrics(name, length, rows)
        ],
        {"adapters": len(setup.adapters), **setup.engine, **setup.environment},
        rows,
    )


def _with_more_adapters_than_fit(setup: ServerSetup, count: int, rank: int, scratch: Path) -> ServerSetup:
    """Return a setup with at least `count` adapters, more than fit: requested in turn, each has been evicted."""
    adapters = write_adapters(scratch / "adapters", setup.base, max(count, MAX_CPU_LORAS + 1), rank=rank)
    limits = {"max_loras": MAX_LORAS, "max_cpu_loras": MAX_CPU_LORAS, "max_lora_rank": max(rank, 16)}
    return replace(setup, adapters=adapters, engine={**setup.engine, **limits})


def _specs(setup: ServerSetup, scratch: Path) -> dict[str, ServerSpec]:
    return {"loramux": loramux_spec(setup, scratch / "data"), "stock": stock_spec(setup)}


async def _third_of_stream(client: ChatClient, base: str, rng: Generator) -> float:
    """Return the seconds until about a third of a stream of GAP_TOKENS has arrived."""
    return (await stream_tokens(client, base, random_prompts(1, rng)[0], GAP_TOKENS)).duration / 3


@dataclass(frozen=True)
class _InterruptedStream:
    """A stream of the base, with another request `middle` seconds after its start."""

    client: ChatClient
    base: str
    middle: float
    rng: Generator

    async def gap(self, adapter: str) -> float:
        """Return the longest gap between two tokens relative to the median gap, with a request for the adapter."""
        prompt, token = random_prompts(1, self.rng)[0], int(self.rng.integers(1000, 10_000))
        running = asyncio.create_task(stream_tokens(self.client, self.base, prompt, GAP_TOKENS))
        await asyncio.sleep(self.middle)
        reply = await self.client.complete(adapter, [token], max_tokens=1)
        stream = await running
        if not reply.ok:
            raise BurstFailedError(f"{self.client.url}: {reply.error}")
        if not stream.chunk_times[0] < reply.sent <= reply.last < stream.chunk_times[-1]:
            raise BurstFailedError(f"{self.client.url}: the request was not within the stream")
        between = [later - earlier for earlier, later in itertools.pairwise(stream.chunk_times)]
        return max(between) / median(between)


async def _first_token(client: ChatClient, model: str, numbers: int, rng: Generator) -> float:
    reply = await stream_tokens(client, model, random_prompts(1, rng, numbers)[0], COLD_TOKENS)
    return reply.chunk_times[0] - reply.sent


def _gap_metrics(name: str, rows: Sequence[Mapping[str, float | str]]) -> list[Metric]:
    mine = [row for row in rows if row["server"] == name]
    return [
        Metric(
            f"{name}: longest gap / median gap, adapter {state}",
            spread([float(row[state]) for row in mine]),
            at_most=MAX_GAP_RATIO if (name, state) == ("loramux", "cold") else None,
        )
        for state in ("cold", "warm")
    ]


def _cold_metrics(name: str, length: str, rows: Sequence[Mapping[str, float | str]]) -> list[Metric]:
    def of(key: str) -> list[float]:
        return [float(row[key]) for row in rows if (row["server"], row["prompt"]) == (name, length)]

    goal = MAX_COLD_RATIO if name == "loramux" else None
    return [
        Metric(f"{name}: first token cold / warm, {length} prompt", spread(of("ratio")), at_most=goal),
        *(
            Metric(f"{name}: first token {state}, {length} prompt", spread(of(state)), "s")
            for state in ("cold", "warm")
        ),
    ]
