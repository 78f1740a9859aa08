"""What ten thousand registered adapters cost a server that is idle: its start, its list of models, its memory."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp

from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerSpec, Setup, loramux, running
from loramux_loadtests.statistics import spread
from loramux_loadtests.steps import Steps
from loramux_loadtests.synthetic import write_adapter

FEW = 10
AT_ONCE = 8
START_AT_MOST_S, LIST_AT_MOST_S, MEMORY_AT_MOST_MB = 5.0, 1.0, 200.0


async def many(setup: Setup, count: int, scratch: Path, steps: Steps) -> Report:
    """A start with `count` registered adapters against one with FEW; they are registered over HTTP, without a proof."""
    steps.expect(6)
    measured: dict[int, dict[str, float]] = {}
    for number in (FEW, count):
        steps.begin(f"making {number} adapters")
        folder = scratch / f"adapters-{number}"
        adapters = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(number)}
        quiet = replace(setup, adapters=adapters, environment={**setup.environment, "LORAMUX_PROOF": "false"})
        data = scratch / f"data-{number}"
        steps.begin(f"registering {number} adapters")
        async with running(loramux(quiet, data), scratch / "first.log") as server:
            taken = await _register(server.url, adapters)
        steps.begin(f"starting with {number} adapters")
        measured[number] = {"registering": taken, **await _started(loramux(quiet, data), scratch)}
    few, more = measured[FEW], measured[count]

    def finding(what: str, value: float, unit: str, at_most: float | None = None) -> Finding:
        return Finding(what, spread([value]), unit, at_most=at_most)

    findings = [
        finding(f"start: {count} adapters - {FEW}", more["start"] - few["start"], "s", START_AT_MOST_S),
        finding(f"/v1/models with {count} adapters", more["list"], "s", LIST_AT_MOST_S),
        finding(f"memory: {count} adapters - {FEW}", more["memory"] - few["memory"], "MB", MEMORY_AT_MOST_MB),
        finding(f"start with {FEW} adapters", few["start"], "s"),
        finding(f"registering {count} adapters, {AT_ONCE} at once", more["registering"], "s"),
    ]
    explanation = "Memory is the resident memory of the server's own process, without the engine's."
    return Report(f"{count} registered adapters", explanation, findings, {**setup.engine}, [few, more])


async def _register(url: str, adapters: Mapping[str, Path]) -> float:
    """Seconds that registering all of them takes."""
    waiting, started = iter(adapters.items()), time.monotonic()

    async def one_after_the_other(session: aiohttp.ClientSession) -> None:
        for name, path in waiting:
            body = {"name": name, "source": {"type": "folder", "path": str(path)}}
            async with session.post("/admin/adapters", json=body) as response:
                response.raise_for_status()

    async with aiohttp.ClientSession(url) as session:
        await asyncio.gather(*(one_after_the_other(session) for _ in range(AT_ONCE)))
    return time.monotonic() - started


async def _started(spec: ServerSpec, scratch: Path) -> dict[str, float]:
    """How long a start takes, then the list of models, and what the process holds after it."""
    async with running(spec, scratch / "second.log") as server, aiohttp.ClientSession(server.url) as session:
        asked = time.monotonic()
        async with session.get("/v1/models") as response:
            await response.read()
        listed = time.monotonic() - asked
        async with session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
    resident = next(line for line in lines if line.startswith("process_resident_memory_bytes "))
    return {"start": server.start_seconds, "list": listed, "memory": float(resident.split()[1]) / 1e6}
