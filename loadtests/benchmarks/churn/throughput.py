"""Throughput with more adapters than fit, each request for another one."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from numpy.random import Generator, default_rng

from benchmarks.bursts import stream_tokens
from benchmarks.overhead.side_by_side import alternating_order, running_servers
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.servers import ServerSetup, ServerSpec, loramux_spec, stock_spec
from loramux_loadtests.synthetic_adapters import write_adapters

FEW_SLOTS, MAX_CPU_LORAS = 4, 8
STREAMS, TOKENS, RANK = 8, 32, 8
KV_CACHE_BYTES = 1 << 30
"""Four engines must fit on one machine; these streams need less than a tenth of this."""
MIN_RATIO = 0.80

ThroughputRow = Mapping[str, float | str]


async def measure_throughput(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, count: int, rounds: int
) -> BenchmarkReport:
    """Measure output tokens per second with `count` adapters in turn relative to one adapter.

    Each server runs twice: with FEW_SLOTS slots, and with as many slots as adapters in host memory. On a CPU both are
    the same memory, and vLLM never batches more adapters than it has slots.
    """
    adapters = write_adapters(scratch / "adapters", setup.base, count, rank=RANK)
    engine = {**setup.engine, "max_cpu_loras": MAX_CPU_LORAS, "kv_cache_memory_bytes": KV_CACHE_BYTES}
    specs, slots = _specs(replace(setup, adapters=adapters, engine=engine), scratch)
    progress.set_total(len(specs) * (2 + rounds))
    async with running_servers(specs, adapters, scratch, progress) as clients:
        rows = await _measure(clients, list(adapters), slots, rounds, progress)
    return BenchmarkReport(
        f"Throughput with {count} adapters in turn",
        f"{STREAMS} streams in a closed loop, {TOKENS} output tokens each, rank {RANK} on all linear "
        f"modules, {MAX_CPU_LORAS} "
        f"adapters in host memory: each of the {count} adapters is evicted before its next request. As many "
        "adapters as "
        "slots stay loaded: their ratio shows how much of the loss is not due to loading. With fewer slots "
        "than streams, "
        "streams wait for each other, because vLLM runs no more adapters per step. A ratio is within one server and "
        "round.",
        [metric for name in specs for metric in _metrics(name, count, rows)],
        {"rounds": rounds, "slots": f"{FEW_SLOTS} and {MAX_CPU_LORAS}", **engine, **setup.environment},
        rows,
    )


def _specs(setup: ServerSetup, scratch: Path) -> tuple[dict[str, ServerSpec], dict[str, int]]:
    """Return how to start each server, and its number of slots."""
    specs, slots = {}, {}
    for count in (FEW_SLOTS, MAX_CPU_LORAS):
        each = replace(setup, engine={**setup.engine, "max_loras": count})
        of_each = {"loramux": loramux_spec(each, scratch / f"data-{count}"), "stock": stock_spec(each)}
        for server, spec in of_each.items():
            specs[f"{server}, {count} slots"] = spec
            slots[f"{server}, {count} slots"] = count
    return specs, slots


async def _measure(
    clients: Mapping[str, ChatClient],
    models: Sequence[str],
    slots: Mapping[str, int],
    rounds: int,
    progress: StepProgress,
) -> list[ThroughputRow]:
    rng = default_rng(0)
    for name, client in clients.items():
        progress.begin(f"warming up: {name}")
        await run_closed_loop(client, models[:1], STREAMS, rng)
    rows: list[ThroughputRow] = []
    # Every other round has the opposite order, so that no server is always first.
    for number, name in enumerate(alternating_order(list(clients), rounds, first=0)):
        progress.begin(f"round {number // len(clients) + 1} of {rounds}: {name}")
        sets = {"one": models[:1], "fitting": models[: slots[name]], "many": models}
        row = {key: await run_closed_loop(clients[name], each, 2 * len(models), rng) for key, each in sets.items()}
        ratios = {"ratio": row["many"] / row["one"], "fitting_ratio": row["fitting"] / row["one"]}
        rows.append({"server": name, **row, **ratios})
    return rows


async def run_closed_loop(client: ChatClient, models: Sequence[str], count: int, rng: Generator) -> float:
    """Return output tokens per second of `count` requests for the models in turn, STREAMS of them concurrent."""
    waiting = iter(zip(itertools.cycle(models), random_prompts(count, rng)))
    started = time.monotonic()

    async def worker() -> None:
        for model, prompt in waiting:
            await stream_tokens(client, model, prompt, TOKENS)

    await asyncio.gather(*(worker() for _ in range(STREAMS)))
    return count * TOKENS / (time.monotonic() - started)


def _metrics(name: str, count: int, rows: Sequence[ThroughputRow]) -> list[Metric]:
    def of(key: str) -> list[float]:
        return [float(row[key]) for row in rows if row["server"] == name]

    goal = MIN_RATIO if name.startswith("loramux") else None
    return [
        Metric(f"{name}: throughput of {count} adapters / of 1", spread(of("ratio")), at_least=goal),
        Metric(f"{name}: throughput of as many adapters as slots / of 1", spread(of("fitting_ratio"))),
        Metric(f"{name}: {count} adapters in turn", spread(of("many")), "tokens/s"),
        Metric(f"{name}: as many adapters as slots in turn", spread(of("fitting")), "tokens/s"),
        Metric(f"{name}: 1 adapter", spread(of("one")), "tokens/s"),
    ]
