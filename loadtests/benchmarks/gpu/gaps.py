"""Gaps in a stream of the base while an adapter is loaded."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
from numpy.random import default_rng

from benchmarks.bursts import stream_tokens
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.prompts import random_prompts

GAP_TOKENS = 128

Load = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class GapCell:
    """The gaps between the tokens of a stream; all values are seconds."""

    server: str
    loads: int
    usual: float
    """Median gap."""
    loading: float
    """Median, over loads, of the longest gap of a stream during which an adapter is loaded."""
    worst: float
    """The longest gap of all of these streams."""
    warm: float
    """As `loading`, but with a request for an adapter that is already loaded."""


async def measure_gaps(server: str, url: str, base: str, adapters: Sequence[str], load: Load) -> GapCell:
    """Measure with one adapter after the other, none of which has been loaded before.

    Raises:
        BurstFailedError: a stream failed.
        LoadTestError: a request for an adapter failed.
    """
    rng = default_rng(1)
    async with ChatClient(url) as client:
        third = (await stream_tokens(client, base, random_prompts(1, rng)[0], GAP_TOKENS)).duration / 3

        async def gaps(adapter: str, *, cold: bool) -> list[float]:
            running = asyncio.create_task(stream_tokens(client, base, random_prompts(1, rng)[0], GAP_TOKENS))
            await asyncio.sleep(third)
            if cold:
                await load(adapter)
            reply = await client.complete(adapter, [int(rng.integers(100, 1000))], max_tokens=1)
            times = (await running).chunk_times
            if not reply.ok:
                raise LoadTestError(f"{server}: {reply.error}")
            return [later - earlier for earlier, later in itertools.pairwise(times)]

        cold = [await gaps(adapter, cold=True) for adapter in adapters]
        warm = [await gaps(adapter, cold=False) for adapter in adapters]
    return GapCell(
        server,
        len(adapters),
        usual=median(itertools.chain.from_iterable(warm)),
        loading=median(map(max, cold)),
        worst=max(map(max, cold)),
        warm=median(map(max, warm)),
    )


async def loaded_by_request(_adapter: str) -> None:
    """Load nothing in advance: loramux loads an adapter when it is requested."""


def loaded_by_stock(url: str, folders: Mapping[str, Path]) -> Load:
    """Return the function that loads an adapter into a stock vLLM, which must know it before it is requested."""

    async def load(adapter: str) -> None:
        body = {"lora_name": adapter, "lora_path": str(folders[adapter])}
        async with aiohttp.ClientSession(url) as session, session.post("/v1/load_lora_adapter", json=body) as response:
            if response.status != 200:
                raise LoadTestError(f"stock did not load {adapter}: {(await response.text())[:200]}")

    return load
