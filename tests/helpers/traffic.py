"""Everything that can happen to a server, so that every metric has something to show."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import openai

from loramux_adapters.finetuning.jobs.models import Progress
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import AdapterName, VersionId
from loramux_server.base_model import ResolvedBase
from tests.helpers.fine_tuning_jobs import job_record
from tests.helpers.tiny_server import TinyServer, tiny_server

KEY = "scraped"
PRICES: dict[str, Any] = {"base": {"input": 100_000, "cached": 50_000, "output": 400_000}, "gpu_hour": 4}
_BASE = ""
"""What the fake engine calls the base among the corrupt."""


@contextlib.asynccontextmanager
async def busy_server(root: Path, base: ResolvedBase) -> AsyncIterator[TinyServer]:
    """A server with a key and a price list, to which `everything` has happened and happens on."""
    async with tiny_server(root, base, keys=(KEY,), prices=PRICES) as tiny:
        for number, name in enumerate(("pinned", "one", "two", "three", "broken")):
            await tiny.add(name, seed=number)
        await tiny.server.library.pin(AdapterName("pinned"), pinned=True, actor="test")
        await everything(tiny, 0)
        tiny.server.books.accounts.settle()
        happening = asyncio.create_task(again_and_again(tiny))
        try:
            yield tiny
            assert not happening.done(), happening.exception()
        finally:
            happening.cancel()
            await asyncio.gather(happening, return_exceptions=True)


async def again_and_again(tiny: TinyServer) -> None:
    for number in count(1):
        await everything(tiny, number)


async def everything(tiny: TinyServer, number: int) -> None:
    """Ask the base and more adapters than there are places; then some requests are refused, and some fail."""
    tiny.engine.seconds_per_token = 0.001
    for model in ("tiny", "pinned", "one", "tiny", "two", "three") * 2:
        await tiny.chat(model)
        await asyncio.sleep(0.01)
    _trains(tiny, number)
    await _fails(tiny, f"no-such-model-{number}")
    tiny.engine.corrupt.add(_BASE)
    await _fails(tiny, "tiny")
    tiny.engine.corrupt.discard(_BASE)
    await _fails_to_load(tiny, "broken")
    await _fails(tiny, await _corrupt(tiny, number))


def _trains(tiny: TinyServer, number: int) -> None:
    """Tell the meter what the supervisor would tell it of a job that ended, of the next one, and of one that waits."""
    meter = tiny.server.jobs.observer
    meter.waiting(1)
    meter.stopped(replace(job_record(JobState.SUCCEEDED), id=f"ftjob-{number}"))
    meter.began(job_record(JobState.RUNNING))
    meter.progressed(Progress(step=1, steps=4, tokens=100 + number, seconds=1.0, seconds_left=3.0, loss=0.5))


async def _fails(tiny: TinyServer, model: str) -> None:
    with contextlib.suppress(openai.APIStatusError):
        await tiny.chat(model)
        raise AssertionError(f"{model} answered")


async def _fails_to_load(tiny: TinyServer, name: str) -> None:
    version = tiny.server.library.catalogue.resolve(name)
    assert version is not None
    tiny.server.library.pool.forgive(version)
    tiny.server.library.pool.discard(version)
    tiny.engine.refused_loads.add(str(version))
    await _fails(tiny, name)


async def _corrupt(tiny: TinyServer, number: int) -> str:
    version = VersionId.parse(await tiny.add(f"corrupt-{number}", seed=100 + number))
    tiny.engine.corrupt.add(str(version))
    return version.name
