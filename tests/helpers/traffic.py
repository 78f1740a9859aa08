"""Generates every kind of request and failure, so that every metric has data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import openai

from loramux_adapters.finetuning.jobs.models import JobProgress
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import AdapterName, VersionId
from loramux_server.base_model import ResolvedBase
from tests.helpers.fine_tuning_jobs import job_record
from tests.helpers.tiny_server import TinyServer, tiny_server

KEY = "scraped"
PRICES: dict[str, Any] = {"base": {"input": 100_000, "cached": 50_000, "output": 400_000}, "gpu_hour": 4}
_BASE = ""
"""The fake engine's name of the base in `corrupt`."""


@contextlib.asynccontextmanager
async def busy_server(root: Path, base: ResolvedBase) -> AsyncIterator[TinyServer]:
    """Run a server with an API key and a price list under continuous load of all kinds."""
    async with tiny_server(root, base, keys=(KEY,), prices=PRICES) as tiny:
        for number, name in enumerate(("pinned", "one", "two", "three", "broken")):
            await tiny.add(name, seed=number)
        await tiny.server.adapter_service.pin(AdapterName("pinned"), pinned=True, actor="test")
        await _all_kinds(tiny, 0)
        tiny.server.usage_recorder.meter.charge_ended()
        load = asyncio.create_task(_repeat(tiny))
        try:
            yield tiny
            assert not load.done(), load.exception()
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


async def _repeat(tiny: TinyServer) -> None:
    for number in count(1):
        await _all_kinds(tiny, number)


async def _all_kinds(tiny: TinyServer, number: int) -> None:
    """Send requests to the base and to more adapters than fit in memory, then refused and failing ones."""
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
    """Report an ended, a running and a waiting job to the job metrics, as the supervisor does."""
    meter = tiny.server.job_supervisor.runner.observer
    meter.queue_changed(1)
    meter.stopped(replace(job_record(JobState.SUCCEEDED), id=f"ftjob-{number}"))
    meter.started(job_record(JobState.RUNNING))
    meter.progressed(JobProgress(step=1, steps=4, tokens=100 + number, seconds=1.0, seconds_left=3.0, loss=0.5))


async def _fails(tiny: TinyServer, model: str) -> None:
    with contextlib.suppress(openai.APIStatusError):
        await tiny.chat(model)
        raise AssertionError(f"{model} answered")


async def _fails_to_load(tiny: TinyServer, name: str) -> None:
    version = tiny.server.adapter_service.resolver.resolve(name)
    assert version is not None
    tiny.server.adapter_service.pool.reset_backoff(version)
    tiny.server.adapter_service.pool.discard(version)
    tiny.engine.refused_loads.add(str(version))
    await _fails(tiny, name)


async def _corrupt(tiny: TinyServer, number: int) -> str:
    version = VersionId.parse(await tiny.add(f"corrupt-{number}", seed=100 + number))
    tiny.engine.corrupt.add(str(version))
    return version.name
