"""Start times of the servers, measured in turn because the machine's speed varies."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSetup,
    ServerSpec,
    loramux_spec,
    register_adapters,
    running,
    stock_spec,
)
from loramux_loadtests.synthetic_adapters import write_adapter

MAX_START_RATIO = 1.2
MAX_EXTRA_START_S = 2.0
FEW_ADAPTERS = 3

Measured = TypeVar("Measured")

SpecFactory = Callable[[], ServerSpec]
"""Makes a new spec for each start, because its port must be free at that time."""


async def second_start(setup: ServerSetup, rounds: int, scratch: Path, progress: StepProgress) -> BenchmarkReport:
    """Measure a second start of loramux, with the data of the first one, relative to a start of stock vLLM."""
    data = scratch / "data"
    progress.set_total(1 + 2 * rounds)
    await _register_at_first_start(setup, data, scratch, progress)
    specs: dict[str, SpecFactory] = {"stock": partial(stock_spec, setup), "loramux": partial(loramux_spec, setup, data)}
    rows = await measure_in_turn(specs, rounds, scratch, progress, partial(_start_seconds, setup.base.name))
    ratio = paired_ratio([row["loramux"] for row in rows], [row["stock"] for row in rows])
    return BenchmarkReport(
        title="Start of loramux against stock vLLM",
        explanation="Seconds from starting the process to the first 200 of /ready or /health, loramux "
        "relative to stock.",
        metrics=[
            Metric("start: loramux / stock", ratio, at_most=MAX_START_RATIO),
            *(Metric(f"start of {name}", spread([row[name] for row in rows]), unit="s") for name in rows[0]),
        ],
        arguments={"rounds": rounds, **setup.engine, **setup.environment},
        rounds=rows,
    )


async def start_with_many(
    setup: ServerSetup, many: int, rounds: int, scratch: Path, progress: StepProgress
) -> BenchmarkReport:
    """Measure a start of loramux with `many` registered adapters relative to one with FEW_ADAPTERS."""
    setups = {}
    progress.set_total(4 + 2 * rounds)
    for count in (FEW_ADAPTERS, many):
        progress.begin(f"writing {count} adapters")
        folder = scratch / f"adapters-{count}"
        adapters = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(count)}
        setups[f"with {count}"] = without_proof(setup, adapters)
    specs: dict[str, SpecFactory] = {}
    for name, each in setups.items():
        data = scratch / name
        await _register_at_first_start(each, data, scratch, progress)
        specs[name] = partial(loramux_spec, each, data)
    rows = await measure_in_turn(specs, rounds, scratch, progress, partial(_start_seconds, setup.base.name))
    few, more = setups
    longer = spread([row[more] - row[few] for row in rows])
    return BenchmarkReport(
        title=f"Start of loramux with {many} registered adapters",
        explanation=f"Seconds to the first 200 of /ready with {many} registered adapters and with "
        f"{FEW_ADAPTERS}, in pairs.",
        metrics=[
            Metric(f"start: {many} adapters - {FEW_ADAPTERS} adapters", longer, unit="s", at_most=MAX_EXTRA_START_S),
            *(Metric(f"start {name}", spread([row[name] for row in rows]), unit="s") for name in rows[0]),
        ],
        arguments={"rounds": rounds, "many": many, **setup.engine, **setup.environment},
        rounds=rows,
    )


async def _register_at_first_start(setup: ServerSetup, data: Path, scratch: Path, progress: StepProgress) -> None:
    progress.begin(f"first start, to register {len(setup.adapters)} adapters")
    async with running(loramux_spec(setup, data), scratch / "first.log") as server:
        await register_adapters(server.url, setup.adapters)


async def measure_in_turn(
    specs: Mapping[str, SpecFactory],
    rounds: int,
    scratch: Path,
    progress: StepProgress,
    measure: Callable[[RunningServer], Awaitable[Measured]],
) -> list[dict[str, Measured]]:
    """Start each server in each round, and return the result of `measure` by name, one row per round.

    Every other round has the opposite order.
    """
    rows = []
    for number in range(rounds):
        row: dict[str, Measured] = {}
        for name in list(specs)[:: 1 if number % 2 == 0 else -1]:
            progress.begin(f"round {number + 1} of {rounds}: starting {name}")
            async with running(specs[name](), scratch / "start.log") as server:
                row[name] = await measure(server)
        rows.append({name: row[name] for name in specs})
    return rows


async def _start_seconds(model: str, server: RunningServer) -> float:
    """Return the start time of a server that answers; raises ServerFailedError if it does not."""
    async with ChatClient(server.url) as client:
        reply = await client.chat(model, [{"role": "user", "content": "Hello"}], max_tokens=1)
    if not reply.ok:
        raise ServerFailedError(f"{server.name} was ready but did not answer: {reply.error}")
    return server.start_seconds
