"""One run of a scenario on one server that is up: its models, its tokenizer, the warm-up, the load."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat

from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.errors import LoadTestError, NoRequestError, ServerGoneError
from loramux_loadtests.loadtest.fine_tuning import Job, beside
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.models import models_of
from loramux_loadtests.loadtest.plan import Plan
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.prompts import measure_tokens
from loramux_loadtests.loadtest.rows import Row, RowFile
from loramux_loadtests.loadtest.runner import OpenLoop, meanwhile, short_pauses
from loramux_loadtests.loadtest.scenario import Scenario

SHOWN_EVERY_S = 0.25


@dataclass(frozen=True)
class Target:
    """A server that is up."""

    name: str
    url: str
    api_key: str | None = None
    base: str | None = None
    """What its base model is called, where its list of models does not tell."""


@dataclass
class Run:
    """One load on one server: all that a report needs."""

    target: str
    scenario: Scenario
    seed: int
    rows: list[Row] = field(default_factory=list)
    client_busy: float | None = None
    """CPU seconds of the client a second of the load."""
    ended_early: str | None = None
    """Why the load did not go to its end."""
    notes: list[str] = field(default_factory=list)
    job_ran: tuple[float, float] | None = None
    """From when until when a fine-tuning job ran, in seconds of the load."""


class End(BaseModel):
    """How a load ended, as its rows' last line has it: what a report needs besides them, by its names in Run."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    client_busy: FiniteFloat | None
    ended_early: str | None
    notes: list[str]
    job_ran: tuple[FiniteFloat, FiniteFloat] | None


async def run_load(scenario: Scenario, target: Target, seed: int, file: Path, watch: Watch) -> Run:
    """Put the scenario's load on a server, its rows in `file`.

    LoadTestError before the load begins, if it can't; NoRequestError if it has no request. Once it has begun, whatever
    ends it is told by the result, also a cancellation of this task, so that the rows so far are reported.
    """
    models = await models_of(target.url, Plan(scenario, seed).routes, target.base, target.api_key)
    run = Run(target.name, scenario, seed)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(target.url, target.api_key, timeout=scenario.timeout))
        rows = stack.enter_context(RowFile(file))
        watch.begin(f"{target.name}: looking at the tokenizer")
        plan = Plan(scenario, seed, tokens_per_number=await _tokens_per_number(client, scenario, models.values()))
        rows.note(
            {"target": target.name, "seed": seed, "scenario": scenario.model_dump(mode="json", exclude_unset=True)}
        )

        def sink(row: Row) -> None:
            rows.append(row)
            run.rows.append(row)

        loop = OpenLoop(client, models, sink, scenario.output, drain=scenario.drain)
        await _through(run, plan, loop, watch, _job(scenario, target, models))
        rows.note({"end": End.model_validate(run).model_dump()})
    if not any(row.phase == "load" for row in run.rows):
        if run.ended_early:
            raise LoadTestError(run.ended_early)
        raise NoRequestError(f"the scenario sends no request within {scenario.duration:g} s")
    return run


async def _through(
    run: Run, plan: Plan, loop: OpenLoop, watch: Watch, job: AbstractAsyncContextManager[Job | None]
) -> None:
    """Warm-up and load; what ends them early is noted."""
    busy, begun = 0.0, 0.0
    beside_it: Job | None = None
    try:
        async with meanwhile(watch.show, SHOWN_EVERY_S):
            watch.begin(f"{run.target}: warming up", lambda: loop.counts)
            await loop.warm_up(plan.warm_up())
            watch.begin(f"{run.target}: {run.scenario.title}", lambda: loop.counts)
            busy, begun = time.process_time(), time.monotonic()
            with short_pauses():
                async with job as beside_it:
                    await loop.run(plan.load())
    except ServerGoneError as error:
        run.ended_early = str(error)
    except asyncio.CancelledError:
        run.ended_early = "interrupted"
    if beside_it:
        run.notes.append(beside_it.told)
        if beside_it.running_since is not None and beside_it.running_until is not None:
            run.job_ran = beside_it.running_since - loop.begin, beside_it.running_until - loop.begin
    if begun:
        run.client_busy = (time.process_time() - busy) / max(time.monotonic() - begun, 1e-9)


async def _tokens_per_number(client: Client, scenario: Scenario, models: Iterable[str]) -> float | None:
    """What makes prompts of the right length on this server; None where prompts are not made up."""
    return None if scenario.input.corpus else await measure_tokens(client, next(iter(models)))


def _job(scenario: Scenario, target: Target, models: Mapping[str, str]) -> AbstractAsyncContextManager[Job | None]:
    """The fine-tuning job that the scenario wants beside its load, if it wants one."""
    if scenario.fine_tuning is None:
        return nullcontext()
    wanted = scenario.fine_tuning.model_copy(update={"data": scenario.find_file(scenario.fine_tuning.data)})
    return beside(wanted, target.url, models.get(BASE) or next(iter(models.values())), target.api_key)
