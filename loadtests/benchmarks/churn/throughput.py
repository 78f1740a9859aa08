"""More adapters than fit: what is left of the throughput when every request wants another one."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from numpy.random import Generator, default_rng

from benchmarks.bursts import ask
from benchmarks.overhead.side_by_side import alternating, serving
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerSpec, Setup, loramux, stock
from loramux_loadtests.synthetic_adapters import write_adapters

SLOTS, PLACES = 4, 8
STREAMS, TOKENS, RANK = 8, 32, 8
KV_CACHE_BYTES = 1 << 30
"""Four engines have to fit on one machine; these streams need less than a tenth of it."""
AT_LEAST = 0.80

Row = Mapping[str, float | str]


async def throughput(setup: Setup, scratch: Path, steps: Steps, *, count: int, rounds: int) -> Report:
    """Output tokens per second with `count` adapters in turn, over those with one.

    Each server is there twice, with SLOTS slots and with as many slots as places in host memory: on a CPU a slot is
    the same memory as a place, and vLLM never batches more adapters than it has slots.
    """
    adapters = write_adapters(scratch / "adapters", setup.base, count, rank=RANK)
    engine = {**setup.engine, "max_cpu_loras": PLACES, "kv_cache_memory_bytes": KV_CACHE_BYTES}
    specs, slots = _specs(replace(setup, adapters=adapters, engine=engine), scratch)
    steps.expect(len(specs) * (2 + rounds))
    async with serving(specs, adapters, scratch, steps) as clients:
        rows = await _measure(clients, list(adapters), slots, rounds, steps)
    return Report(
        f"Throughput with {count} adapters in turn",
        f"{STREAMS} streams in a closed loop, {TOKENS} output tokens each, rank {RANK} on all linear modules, {PLACES} "
        f"places in host memory: each of the {count} adapters left before it is asked for again. As many adapters as "
        "there are slots are never loaded: their ratio shows what of the loss is not the loads'. With fewer slots than "
        "streams, streams wait for one another, because vLLM runs no more adapters in a step. A ratio is within one "
        "server and round.",
        [finding for name in specs for finding in _findings(name, count, rows)],
        {"rounds": rounds, "slots": f"{SLOTS} and {PLACES}", **engine, **setup.environment},
        rows,
    )


def _specs(setup: Setup, scratch: Path) -> tuple[dict[str, ServerSpec], dict[str, int]]:
    """How to start each server, and how many slots it has."""
    specs, slots = {}, {}
    for count in (SLOTS, PLACES):
        each = replace(setup, engine={**setup.engine, "max_loras": count})
        of_each = {"loramux": loramux(each, scratch / f"data-{count}"), "stock": stock(each)}
        for server, spec in of_each.items():
            specs[f"{server}, {count} slots"] = spec
            slots[f"{server}, {count} slots"] = count
    return specs, slots


async def _measure(
    clients: Mapping[str, Client], models: Sequence[str], slots: Mapping[str, int], rounds: int, steps: Steps
) -> list[Row]:
    chance = default_rng(0)
    for name, client in clients.items():
        steps.begin(f"warming up: {name}")
        await closed_loop(client, models[:1], STREAMS, chance)
    rows: list[Row] = []
    # Rounds in pairs: the second goes the other way, so that nobody is always first.
    for number, name in enumerate(alternating(list(clients), rounds, first=0)):
        steps.begin(f"round {number // len(clients) + 1} of {rounds}: {name}")
        sets = {"one": models[:1], "fitting": models[: slots[name]], "many": models}
        row = {key: await closed_loop(clients[name], each, 2 * len(models), chance) for key, each in sets.items()}
        ratios = {"ratio": row["many"] / row["one"], "fitting_ratio": row["fitting"] / row["one"]}
        rows.append({"server": name, **row, **ratios})
    return rows


async def closed_loop(client: Client, models: Sequence[str], count: int, chance: Generator) -> float:
    """Output tokens per second of `count` requests for the models in turn, of which STREAMS run at any time."""
    waiting = iter(zip(itertools.cycle(models), random_prompts(count, chance)))
    started = time.monotonic()

    async def one_after_the_other() -> None:
        for model, prompt in waiting:
            await ask(client, model, prompt, TOKENS)

    await asyncio.gather(*(one_after_the_other() for _ in range(STREAMS)))
    return count * TOKENS / (time.monotonic() - started)


def _findings(name: str, count: int, rows: Sequence[Row]) -> list[Finding]:
    def of(key: str) -> list[float]:
        return [float(row[key]) for row in rows if row["server"] == name]

    goal = AT_LEAST if name.startswith("loramux") else None
    return [
        Finding(f"{name}: throughput of {count} adapters / of 1", spread(of("ratio")), at_least=goal),
        Finding(f"{name}: throughput of as many as there are slots / of 1", spread(of("fitting_ratio"))),
        Finding(f"{name}: {count} adapters in turn", spread(of("many")), "tokens/s"),
        Finding(f"{name}: as many as there are slots in turn", spread(of("fitting")), "tokens/s"),
        Finding(f"{name}: 1 adapter", spread(of("one")), "tokens/s"),
    ]
