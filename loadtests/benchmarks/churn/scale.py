"""What ten thousand registered adapters cost a server that is idle: its start, its list of models, its memory."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.overhead.starts import MakeSpec, in_turn
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import RunningServer, ServerFailedError, Setup, loramux, register, running
from loramux_loadtests.synthetic_adapters import write_adapter

FEW = 10
AT_ONCE = 8
LISTED = 5
"""How often the list of models is asked for."""
START_AT_MOST_S, LIST_AT_MOST_S, MEMORY_AT_MOST_MB = 5.0, 1.0, 200.0

Look = Mapping[str, float]


async def many(setup: Setup, scratch: Path, steps: Steps, *, count: int, rounds: int) -> Report:
    """A start with `count` registered adapters against one with FEW; they are registered over HTTP, without a proof."""
    steps.expect(4 + 2 * rounds)
    specs: dict[str, MakeSpec] = {}
    registering: dict[int, float] = {}
    for number in (FEW, count):
        steps.begin(f"making {number} adapters")
        folder, data = scratch / f"adapters-{number}", scratch / f"data-{number}"
        adapters = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(number)}
        quiet = without_proof(setup, adapters)
        steps.begin(f"registering {number} adapters")
        async with running(loramux(quiet, data), scratch / "first.log") as server:
            begun = time.monotonic()
            await register(server.url, adapters, AT_ONCE)
            registering[number] = time.monotonic() - begun
        specs[f"{number} adapters"] = partial(loramux, quiet, data)
    rows = await in_turn(specs, rounds, scratch, steps, _look)
    if any(row[f"{count} adapters"]["listed"] != count + 1 for row in rows):
        raise ServerFailedError(f"/v1/models does not list all of {count} adapters and the base")
    return Report(
        f"{count} registered adapters",
        "A second start of loramux in turn with a start with few adapters, pair by pair: seconds to the first 200 of "
        f"/ready, the slowest of {LISTED} answers of /v1/models, and the resident memory of the server's own process "
        "after them. The adapters have rank 1 on one module of one layer.",
        [
            *_findings(rows, *specs),
            Finding(f"registering {count} adapters, {AT_ONCE} at once", spread([registering[count]]), "s"),
        ],
        {"rounds": rounds, **setup.engine, **setup.environment},
        rows,
    )


async def _look(server: RunningServer) -> Look:
    async with aiohttp.ClientSession(server.url) as session:
        lists = [await _list(session) for _ in range(LISTED)]
        async with session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
    resident = next(line for line in lines if line.startswith("process_resident_memory_bytes "))
    seconds, length = max(lists)
    memory = float(resident.split()[1]) / 1e6
    return {"start": server.start_seconds, "list": seconds, "listed": length, "memory": memory}


async def _list(session: aiohttp.ClientSession) -> tuple[float, int]:
    """How long the list of models takes to come, and how long it is."""
    asked = time.monotonic()
    async with session.get("/v1/models") as response:
        models = (await response.json())["data"]
    return time.monotonic() - asked, len(models)


def _findings(rows: Sequence[Mapping[str, Look]], few: str, more: str) -> list[Finding]:
    def of(key: str, name: str) -> list[float]:
        return [row[name][key] for row in rows]

    def extra(key: str) -> list[float]:
        return [more - few for more, few in zip(of(key, more), of(key, few), strict=True)]

    return [
        Finding(f"start: {more} - {few}", spread(extra("start")), "s", at_most=START_AT_MOST_S),
        Finding(f"/v1/models with {more}", spread(of("list", more)), "s", at_most=LIST_AT_MOST_S),
        Finding(f"memory: {more} - {few}", spread(extra("memory")), "MB", at_most=MEMORY_AT_MOST_MB),
        *(Finding(f"start with {name}", spread(of("start", name)), "s") for name in (few, more)),
        *(Finding(f"memory with {name}", spread(of("memory", name)), "MB") for name in (few, more)),
    ]
