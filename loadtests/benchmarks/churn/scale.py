"""Cost of ten thousand registered adapters for an idle server: start, list of models, memory."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.overhead.starts import SpecFactory, measure_in_turn
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSetup,
    loramux_spec,
    register_adapters,
    running,
)
from loramux_loadtests.synthetic_adapters import write_adapter

FEW_ADAPTERS = 10
REGISTER_CONCURRENCY = 8
LIST_REQUESTS = 5
"""How often the list of models is requested."""
MAX_EXTRA_START_S, MAX_LIST_S, MAX_EXTRA_MEMORY_MB = 5.0, 1.0, 200.0

IdleCosts = Mapping[str, float]


async def measure_scale(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, count: int, rounds: int
) -> BenchmarkReport:
    """Measure a start with `count` registered adapters relative to FEW_ADAPTERS; registers them without a proof."""
    progress.set_total(4 + 2 * rounds)
    specs: dict[str, SpecFactory] = {}
    registering: dict[int, float] = {}
    for number in (FEW_ADAPTERS, count):
        progress.begin(f"writing {number} adapters")
        folder, data = scratch / f"adapters-{number}", scratch / f"data-{number}"
        adapters = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(number)}
        server_setup = without_proof(setup, adapters)
        progress.begin(f"registering {number} adapters")
        async with running(loramux_spec(server_setup, data), scratch / "first.log") as server:
            started = time.monotonic()
            await register_adapters(server.url, adapters, REGISTER_CONCURRENCY)
            registering[number] = time.monotonic() - started
        specs[f"{number} adapters"] = partial(loramux_spec, server_setup, data)
    rows = await measure_in_turn(specs, rounds, scratch, progress, _measure_idle_costs)
    if any(row[f"{count} adapters"]["listed"] != count + 1 for row in rows):
        raise ServerFailedError(f"/v1/models does not list all of {count} adapters and the base")
    return BenchmarkReport(
        f"{count} registered adapters",
        "Second starts of loramux with many and with few adapters, in pairs: seconds to the first 200 of /ready, "
        f"the slowest of {LIST_REQUESTS} answers of /v1/models, and the resident memory of the server's own process "
        "afterwards. The adapters have rank 1 on one module of one layer.",
        [
            *_metrics(rows, *specs),
            Metric(
                f"registering {count} adapters, {REGISTER_CONCURRENCY} concurrently", spread([registering[count]]), "s"
            ),
        ],
        {"rounds": rounds, **setup.engine, **setup.environment},
        rows,
    )


async def _measure_idle_costs(server: RunningServer) -> IdleCosts:
    async with aiohttp.ClientSession(server.url) as session:
        lists = [await _time_model_list(session) for _ in range(LIST_REQUESTS)]
        async with session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
    resident = next(line for line in lines if line.startswith("process_resident_memory_bytes "))
    seconds, length = max(lists)
    memory = float(resident.split()[1]) / 1e6
    return {"start": server.start_seconds, "list": seconds, "listed": length, "memory": memory}


async def _time_model_list(session: aiohttp.ClientSession) -> tuple[float, int]:
    """Return the seconds until the list of models arrives, and its length."""
    started = time.monotonic()
    async with session.get("/v1/models") as response:
        models = (await response.json())["data"]
    return time.monotonic() - started, len(models)


def _metrics(rows: Sequence[Mapping[str, IdleCosts]], few: str, more: str) -> list[Metric]:
    def of(key: str, name: str) -> list[float]:
        return [row[name][key] for row in rows]

    def extra(key: str) -> list[float]:
        return [more - few for more, few in zip(of(key, more), of(key, few), strict=True)]

    return [
        Metric(f"start: {more} - {few}", spread(extra("start")), "s", at_most=MAX_EXTRA_START_S),
        Metric(f"/v1/models with {more}", spread(of("list", more)), "s", at_most=MAX_LIST_S),
        Metric(f"memory: {more} - {few}", spread(extra("memory")), "MB", at_most=MAX_EXTRA_MEMORY_MB),
        *(Metric(f"start with {name}", spread(of("start", name)), "s") for name in (few, more)),
        *(Metric(f"memory with {name}", spread(of("memory", name)), "MB") for name in (few, more)),
    ]
