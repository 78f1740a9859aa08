"""How long the servers take to start, which is measured in turn because the machine is not the same every minute."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSpec,
    Setup,
    loramux,
    register,
    running,
    stock,
)
from loramux_loadtests.synthetic_adapters import write_adapter

START_AT_MOST = 1.2
MANY_AT_MOST_S = 2.0
FEW = 3

Measured = TypeVar("Measured")

MakeSpec = Callable[[], ServerSpec]
"""A spec is made for every start anew, for its port must be free then."""


async def second_start(setup: Setup, rounds: int, scratch: Path, steps: Steps) -> Report:
    """A start of loramux that finds everything as an earlier one left it, against a start of stock vLLM."""
    data = scratch / "data"
    steps.expect(1 + 2 * rounds)
    await _prepare(setup, data, scratch, steps)
    specs: dict[str, MakeSpec] = {"stock": partial(stock, setup), "loramux": partial(loramux, setup, data)}
    taken = await in_turn(specs, rounds, scratch, steps, partial(_start_of, setup.base.name))
    ratio = paired_ratio([row["loramux"] for row in taken], [row["stock"] for row in taken])
    return Report(
        title="Start of loramux against stock vLLM",
        explanation="Seconds from the process's start to the first 200 of /ready or /health, loramux over stock.",
        findings=[
            Finding("start: loramux / stock", ratio, at_most=START_AT_MOST),
            *(Finding(f"start of {name}", spread([row[name] for row in taken]), unit="s") for name in taken[0]),
        ],
        arguments={"rounds": rounds, **setup.engine, **setup.environment},
        rounds=taken,
    )


async def start_with_many(setup: Setup, many: int, rounds: int, scratch: Path, steps: Steps) -> Report:
    """A start of loramux with `many` registered adapters against one with three."""
    setups = {}
    steps.expect(4 + 2 * rounds)
    for count in (FEW, many):
        steps.begin(f"making {count} adapters")
        folder = scratch / f"adapters-{count}"
        adapters = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(count)}
        setups[f"with {count}"] = without_proof(setup, adapters)
    specs: dict[str, MakeSpec] = {}
    for name, each in setups.items():
        data = scratch / name
        await _prepare(each, data, scratch, steps)
        specs[name] = partial(loramux, each, data)
    taken = await in_turn(specs, rounds, scratch, steps, partial(_start_of, setup.base.name))
    few, more = setups
    longer = spread([row[more] - row[few] for row in taken])
    return Report(
        title=f"Start of loramux with {many} registered adapters",
        explanation=f"Seconds to the first 200 of /ready with {many} registered adapters and with {FEW}, pairwise.",
        findings=[
            Finding(f"start: {many} adapters - {FEW} adapters", longer, unit="s", at_most=MANY_AT_MOST_S),
            *(Finding(f"start {name}", spread([row[name] for row in taken]), unit="s") for name in taken[0]),
        ],
        arguments={"rounds": rounds, "many": many, **setup.engine, **setup.environment},
        rounds=taken,
    )


async def _prepare(setup: Setup, data: Path, scratch: Path, steps: Steps) -> None:
    steps.begin(f"a first start, to register {len(setup.adapters)} adapters")
    async with running(loramux(setup, data), scratch / "first.log") as server:
        await register(server.url, setup.adapters)


async def in_turn(
    specs: Mapping[str, MakeSpec],
    rounds: int,
    scratch: Path,
    steps: Steps,
    look: Callable[[RunningServer], Awaitable[Measured]],
) -> list[dict[str, Measured]]:
    """What `look` finds after each start, by name, a row a round; every other round goes in the opposite order."""
    taken = []
    for number in range(rounds):
        row: dict[str, Measured] = {}
        for name in list(specs)[:: 1 if number % 2 == 0 else -1]:
            steps.begin(f"round {number + 1} of {rounds}: starting {name}")
            async with running(specs[name](), scratch / "start.log") as server:
                row[name] = await look(server)
        taken.append({name: row[name] for name in specs})
    return taken


async def _start_of(model: str, server: RunningServer) -> float:
    """How long the start took. A server that says that it is ready but does not answer: ServerFailedError."""
    async with Client(server.url) as client:
        reply = await client.chat(model, [{"role": "user", "content": "Hello"}], max_tokens=1)
    if not reply.ok:
        raise ServerFailedError(f"{server.name} was ready but did not answer: {reply.error}")
    return server.start_seconds
