"""More adapters than fit, and adapters that come while others answer.

Three questions, each asked of loramux and of stock vLLM in one run: what is left of the
throughput when every request wants another adapter, how long a stream stands still while an adapter is loaded, and how
much longer a cold adapter's first token takes than a warm one's.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from numpy.random import Generator, default_rng

from loramux_loadtests.bursts import BurstFailedError, prompts
from loramux_loadtests.client import Client, Reply
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerSpec, Setup, loramux, register, running, stock
from loramux_loadtests.statistics import spread
from loramux_loadtests.steps import Steps
from loramux_loadtests.synthetic import LINEAR_MODULES, write_adapter

STREAMS, TOKENS = 8, 32
SLOTS, PLACES = 4, 8
THROUGHPUT_GOAL, GAP_GOAL, COLD_GOAL = 0.80, 2.0, 1.5
GAP_TOKENS = 96
LOADED_AFTER_S = 1.0
"""How far a stream is on its way when the adapter is asked for."""
LONG_PROMPT_NUMBERS = 40


@dataclass(frozen=True)
class Contender:
    """A server that runs, under the name that the report gives it."""

    name: str
    client: Client


async def throughput(setup: Setup, count: int, rounds: int, scratch: Path, steps: Steps) -> Report:
    """Output tokens per second with `count` adapters in turn, over those with one.

    Both servers get SLOTS slots and PLACES places in host memory, and again as many slots as places: on a CPU a slot
    is the same memory as a place, and vLLM never batches more adapters than it has slots.
    """
    adapters = _adapters(setup, count, scratch / "adapters", rank=8)
    small = replace(setup, adapters=adapters, engine={**setup.engine, "max_loras": SLOTS, "max_cpu_loras": PLACES})
    wide = replace(small, engine={**small.engine, "max_loras": PLACES})
    specs = {
        f"loramux, {SLOTS} slots": loramux(small, scratch / "data"),
        f"stock, {SLOTS} slots": stock(small),
        f"loramux, {PLACES} slots": loramux(wide, scratch / "data-wide"),
        f"stock, {PLACES} slots": stock(wide),
    }
    steps.expect(len(specs) * (2 + rounds))
    rows: list[dict[str, float | str]] = []
    async with _running(specs, adapters, scratch, steps) as contenders:
        chance, names = default_rng(0), list(adapters)
        for contender in contenders:
            steps.begin(f"warming up {contender.name}")
            await _closed_loop(contender.client, names[:1], STREAMS, chance)
        for number in range(rounds):
            for contender in contenders[:: 1 if number % 2 == 0 else -1]:
                steps.begin(f"round {number + 1} of {rounds}: {contender.name}")
                one = await _closed_loop(contender.client, names[:1], count, chance)
                many = await _closed_loop(contender.client, names, count, chance)
                rows.append({"server": contender.name, "one": one, "many": many, "ratio": many / one})
    findings = []
    for name in specs:
        mine = [row for row in rows if row["server"] == name]
        goal = THROUGHPUT_GOAL if name.startswith("loramux") else None
        ratios = spread([float(row["ratio"]) for row in mine])
        findings.append(Finding(f"{name}: throughput of {count} adapters / of 1", ratios, at_least=goal))
        findings += [
            Finding(f"{name}: {which}", spread([float(row[key]) for row in mine]), "tokens/s")
            for which, key in ((f"{count} adapters in turn", "many"), ("1 adapter", "one"))
        ]
    explanation = (
        f"{STREAMS} streams in a closed loop, {TOKENS} output tokens each, rank 8 on all linear modules, "
        f"{PLACES} places in host memory: every request of the {count} finds its adapter cold."
    )
    return Report(f"Throughput with {count} adapters in turn", explanation, findings, {**wide.engine}, rows)


async def gaps(setup: Setup, loads: int, scratch: Path, steps: Steps) -> Report:
    """The longest gap of a base stream over its median one, while an adapter of rank 64 is loaded."""
    adapters = _adapters(setup, loads + PLACES, scratch / "big", rank=64)
    engine = {**setup.engine, "max_loras": SLOTS, "max_cpu_loras": PLACES, "max_lora_rank": 64}
    big = replace(setup, adapters=adapters, engine=engine)
    specs = {"loramux": loramux(big, scratch / "data-big"), "stock": stock(big)}
    steps.expect(len(specs) * 2 + loads)
    rows = []
    async with _running(specs, adapters, scratch, steps) as contenders:
        chance = default_rng(1)
        # What was registered last is still in the engine, so the first names are cold.
        for number, name in enumerate(list(adapters)[:loads]):
            steps.begin(f"load {number + 1} of {loads}")
            row: dict[str, float] = {}
            for contender in contenders[:: 1 if number % 2 == 0 else -1]:
                row[contender.name] = await _gap(contender.client, setup.base.name, name, chance)
                row[f"{contender.name}, no load"] = await _gap(contender.client, setup.base.name, None, chance)
            rows.append(row)
    findings = [
        Finding(
            f"{name}: longest gap / median gap",
            spread([row[name] for row in rows]),
            at_most=GAP_GOAL if name == "loramux" else None,
        )
        for name in rows[0]
    ]
    explanation = f"One base stream of {GAP_TOKENS} tokens for each of {loads} loads of a rank-64 adapter (78 MB)."
    return Report("Gaps in a base stream while adapters load", explanation, findings, engine, rows)


async def cold(setup: Setup, count: int, scratch: Path, steps: Steps) -> Report:
    """Time to first token of a cold adapter's first request over that of its second, on an idle server."""
    adapters = _adapters(setup, count, scratch / "adapters-cold", rank=8)
    engine = {**setup.engine, "max_loras": SLOTS, "max_cpu_loras": PLACES}
    small = replace(setup, adapters=adapters, engine=engine)
    specs = {"loramux": loramux(small, scratch / "data-cold"), "stock": stock(small)}
    steps.expect(len(specs) * 3)
    rows: list[dict[str, float | str]] = []
    async with _running(specs, adapters, scratch, steps) as contenders:
        chance = default_rng(2)
        for contender, (words, numbers) in itertools.product(contenders, (("short", 4), ("long", LONG_PROMPT_NUMBERS))):
            steps.begin(f"{contender.name}, {words} prompts")
            for name in adapters:
                first, second = [await _first_token(contender.client, name, numbers, chance) for _ in range(2)]
                rows.append({"server": contender.name, "prompt": words, "cold": first, "warm": second})
    findings = []
    for server, prompt in itertools.product(specs, ("short", "long")):
        mine = [row for row in rows if (row["server"], row["prompt"]) == (server, prompt)]
        ratio = spread([float(row["cold"]) / float(row["warm"]) for row in mine])
        goal = COLD_GOAL if server == "loramux" else None
        findings.append(Finding(f"{server}: TTFT cold / warm, {prompt} prompt", ratio, at_most=goal))
        findings += [
            Finding(f"{server}: TTFT {key}, {prompt} prompt", spread([float(row[key]) for row in mine]), "s")
            for key in ("cold", "warm")
        ]
    explanation = (
        f"{count} adapters of rank 8 on all linear modules, asked one after the other, twice each with another prompt; "
        "a short prompt has about 30 tokens, a long one about 200."
    )
    return Report("First token of a cold adapter", explanation, findings, engine, rows)


def _adapters(setup: Setup, count: int, folder: Path, rank: int) -> dict[str, Path]:
    return {
        f"a{number}": write_adapter(folder / f"a{number}", setup.base, seed=number, rank=rank, modules=LINEAR_MODULES)
        for number in range(count)
    }


@asynccontextmanager
async def _running(
    specs: Mapping[str, ServerSpec], adapters: Mapping[str, Path], scratch: Path, steps: Steps
) -> AsyncIterator[list[Contender]]:
    """All servers, up at once: an idle engine uses next to no CPU."""
    async with AsyncExitStack() as stack:
        contenders = []
        for name, spec in specs.items():
            steps.begin(f"starting {name}")
            server = await stack.enter_async_context(running(spec, scratch / f"{name}.log"))
            if spec.name == "loramux":
                await register(server.url, adapters)
            client = await stack.enter_async_context(Client(server.url))
            contenders.append(Contender(name, client))
        yield contenders


async def _closed_loop(client: Client, models: Sequence[str], count: int, chance: Generator) -> float:
    """Output tokens per second of `count` requests for the models in turn, STREAMS at once."""
    waiting = iter(zip(itertools.cycle(models), prompts(count, chance)))
    started = time.monotonic()

    async def one_stream() -> None:
        for model, prompt in waiting:
            _sound(client, await _ask(client, model, prompt, TOKENS))

    await asyncio.gather(*(one_stream() for _ in range(STREAMS)))
    return count * TOKENS / (time.monotonic() - started)


async def _gap(client: Client, base: str, adapter: str | None, chance: Generator) -> float:
    """The longest gap over the median gap of a base stream, in the middle of which an adapter is asked for."""
    (prompt, other) = prompts(2, chance)
    stream = asyncio.create_task(_ask(client, base, prompt, GAP_TOKENS))
    await asyncio.sleep(LOADED_AFTER_S)
    if adapter is not None:
        _sound(client, await _ask(client, adapter, other, 1))
    moments = _sound(client, await stream).moments
    between = [later - earlier for earlier, later in itertools.pairwise(moments)]
    return max(between) / median(between)


async def _first_token(client: Client, model: str, numbers: int, chance: Generator) -> float:
    prompt = " ".join(map(str, chance.integers(10**5, size=numbers)))
    reply = _sound(client, await _ask(client, model, prompt, 2))
    if reply.ttft is None:
        raise BurstFailedError(f"{client.url}: no token came")
    return reply.ttft


async def _ask(client: Client, model: str, prompt: str, tokens: int) -> Reply:
    return await client.chat(model, _messages(prompt), max_tokens=tokens, ignore_eos=True)


def _messages(prompt: str) -> list[dict[str, str]]:
    # As the system's message: a chat template's own default would be a prefix that all prompts share.
    return [{"role": "system", "content": prompt}, {"role": "user", "content": "Go on."}]


def _sound(client: Client, reply: Reply) -> Reply:
    if not reply.ok:
        raise BurstFailedError(f"{client.url}: {reply.error}")
    return reply
