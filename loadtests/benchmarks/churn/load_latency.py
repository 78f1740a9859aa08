"""What loading an adapter costs: a stream that runs meanwhile, and the request that waits for it."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from numpy.random import Generator, default_rng

from benchmarks.bursts import BurstFailedError, ask
from benchmarks.overhead.side_by_side import alternating, serving
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerSpec, Setup, loramux, stock
from loramux_loadtests.synthetic_adapters import write_adapters

SLOTS, PLACES = 4, 8
GAP_RANK, GAP_TOKENS, GAP_AT_MOST = 64, 96, 2.0
COLD_RANK, COLD_TOKENS, COLD_AT_MOST = 8, 4, 1.5
QUIET_SECONDS = 1.5
"""vLLM's processes watch for more work in a loop for a second, which takes a core from the other server."""
PROMPT_NUMBERS = {"short": 3, "long": 31}
"""How many numbers make a prompt of about 30 and of about 200 tokens, the chat template's included."""

Row = dict[str, float | str]


async def gaps(setup: Setup, scratch: Path, steps: Steps, *, loads: int) -> Report:
    """The longest gap of a base stream over its median one, while an adapter of rank 64 is loaded."""
    setup = _churning(setup, loads, GAP_RANK, scratch)
    specs = _specs(setup, scratch)
    steps.expect(len(specs) + loads)
    rows: list[Row] = []
    async with serving(specs, setup.adapters, scratch, steps) as clients:
        chance = default_rng(1)
        middles = {name: await _middle(client, setup.base.name, chance) for name, client in clients.items()}
        for number, adapter in enumerate(list(setup.adapters)[:loads]):
            steps.begin(f"load {number + 1} of {loads}")
            for name in alternating(list(clients), 1, first=number % 2):
                await asyncio.sleep(QUIET_SECONDS)
                stream = _Stream(clients[name], setup.base.name, middles[name], chance)
                rows.append({"server": name, "cold": await stream.gap(adapter), "warm": await stream.gap(adapter)})
    return Report(
        "Gaps in a base stream while adapters load",
        f"A base stream of {GAP_TOKENS} tokens, in the middle of which an adapter of rank {GAP_RANK} on all linear "
        "modules is asked for one token after one: as little besides the load as can be. It is cold in the first "
        f"stream, and warm in the second, which shows how much of the gap is that request. {loads} adapters.",
        [finding for name in specs for finding in _gap_findings(name, rows)],
        {"loads": loads, **setup.engine, **setup.environment},
        rows,
    )


async def cold(setup: Setup, scratch: Path, steps: Steps, *, count: int) -> Report:
    """Time to first token of a cold adapter's first request over that of its second, on an idle server."""
    setup = _churning(setup, count, COLD_RANK, scratch)
    specs = _specs(setup, scratch)
    steps.expect(len(specs) + count * len(PROMPT_NUMBERS))
    rows: list[Row] = []
    async with serving(specs, setup.adapters, scratch, steps) as clients:
        chance = default_rng(2)
        for (length, numbers), adapter in itertools.product(PROMPT_NUMBERS.items(), setup.adapters):
            steps.begin(f"{adapter}, {length} prompts")
            for name, client in clients.items():
                await asyncio.sleep(QUIET_SECONDS)
                asked = (setup.base.name, adapter, adapter)  # the first wakes what the quiet put to sleep
                _, first, second = [await _first_token(client, model, numbers, chance) for model in asked]
                rows.append({"server": name, "prompt": length, "cold": first, "warm": second, "ratio": first / second})
    return Report(
        "First token of a cold adapter",
        f"{len(setup.adapters)} adapters of rank {COLD_RANK} on all linear modules, asked one after the other on an "
        "idle server: after a request to the base once cold, and then with another prompt warm. No two prompts begin "
        "alike. A short prompt has about 30 tokens, a long one about 200.",
        [
            finding
            for name, length in itertools.product(specs, PROMPT_NUMBERS)
            for finding in _cold_findings(name, length, rows)
        ],
        {"adapters": len(setup.adapters), **setup.engine, **setup.environment},
        rows,
    )


def _churning(setup: Setup, count: int, rank: int, scratch: Path) -> Setup:
    """At least `count` adapters, and more than there are places: asked in turn, each of them has left meanwhile."""
    adapters = write_adapters(scratch / "adapters", setup.base, max(count, PLACES + 1), rank=rank)
    limits = {"max_loras": SLOTS, "max_cpu_loras": PLACES, "max_lora_rank": max(rank, 16)}
    return replace(setup, adapters=adapters, engine={**setup.engine, **limits})


def _specs(setup: Setup, scratch: Path) -> dict[str, ServerSpec]:
    return {"loramux": loramux(setup, scratch / "data"), "stock": stock(setup)}


async def _middle(client: Client, base: str, chance: Generator) -> float:
    """Seconds after which a stream of GAP_TOKENS has brought about a third of them."""
    return (await ask(client, base, random_prompts(1, chance)[0], GAP_TOKENS)).duration / 3


@dataclass(frozen=True)
class _Stream:
    """A stream of the base, `middle` seconds after whose start another request comes."""

    client: Client
    base: str
    middle: float
    chance: Generator

    async def gap(self, adapter: str) -> float:
        """The longest gap between two of its tokens over the median one."""
        prompt, token = random_prompts(1, self.chance)[0], int(self.chance.integers(1000, 10_000))
        running = asyncio.create_task(ask(self.client, self.base, prompt, GAP_TOKENS))
        await asyncio.sleep(self.middle)
        reply = await self.client.complete(adapter, [token], max_tokens=1)
        stream = await running
        if not reply.ok:
            raise BurstFailedError(f"{self.client.url}: {reply.error}")
        if not stream.moments[0] < reply.sent <= reply.last < stream.moments[-1]:
            raise BurstFailedError(f"{self.client.url}: the load did not fall into the stream")
        between = [later - earlier for earlier, later in itertools.pairwise(stream.moments)]
        return max(between) / median(between)


async def _first_token(client: Client, model: str, numbers: int, chance: Generator) -> float:
    reply = await ask(client, model, random_prompts(1, chance, numbers)[0], COLD_TOKENS)
    return reply.moments[0] - reply.sent


def _gap_findings(name: str, rows: Sequence[Mapping[str, float | str]]) -> list[Finding]:
    mine = [row for row in rows if row["server"] == name]
    return [
        Finding(
            f"{name}: longest gap / median gap, adapter {state}",
            spread([float(row[state]) for row in mine]),
            at_most=GAP_AT_MOST if (name, state) == ("loramux", "cold") else None,
        )
        for state in ("cold", "warm")
    ]


def _cold_findings(name: str, length: str, rows: Sequence[Mapping[str, float | str]]) -> list[Finding]:
    def of(key: str) -> list[float]:
        return [float(row[key]) for row in rows if (row["server"], row["prompt"]) == (name, length)]

    goal = COLD_AT_MOST if name == "loramux" else None
    return [
        Finding(f"{name}: first token cold / warm, {length} prompt", spread(of("ratio")), at_most=goal),
        *(
            Finding(f"{name}: first token {state}, {length} prompt", spread(of(state)), "s")
            for state in ("cold", "warm")
        ),
    ]
