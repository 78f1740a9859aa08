"""One run of a scenario on one running server: model names, tokenizer, warm-up, load."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat

from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.errors import LoadTestError, NoRequestError, ServerGoneError
from loramux_loadtests.loadtest.fine_tuning import TuningJob, job_during_load
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.models import resolve_models
from loramux_loadtests.loadtest.plan import PlannedRequest, RequestPlan
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.prompts import measure_tokens
from loramux_loadtests.loadtest.rows import RequestRow, RowWriter
from loramux_loadtests.loadtest.runner import OpenLoop, repeated, short_gc_pauses
from loramux_loadtests.loadtest.scenario import Scenario

REFRESH_INTERVAL_S = 0.25

IsEnough = Callable[[float, Sequence[RequestRow]], bool]
"""Whether to end the load before a request that is due at a time of the load, given the rows so far."""


@dataclass(frozen=True)
class TargetServer:
    """A running server."""

    name: str
    url: str
    api_key: str | None = None
    base: str | None = None
    """The name of its base model, if its list of models does not identify it."""


@dataclass
class LoadRun:
    """One load on one server: everything that a report needs."""

    target: str
    scenario: Scenario
    seed: int
    rows: list[RequestRow] = field(default_factory=list)
    client_busy: float | None = None
    """CPU seconds of the client per second of the load."""
    ended_early: str | None = None
    """Why the load ended early; None if it did not."""
    notes: list[str] = field(default_factory=list)
    job_ran: tuple[float, float] | None = None
    """Start and end of a fine-tuning job, in seconds of the load."""


class RunEnd(BaseModel):
    """How a load ended: the fields of LoadRun that the last line of its rows stores."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    client_busy: FiniteFloat | None
    ended_early: str | None
    notes: list[str]
    job_ran: tuple[FiniteFloat, FiniteFloat] | None


async def run_load(
    scenario: Scenario,
    target: TargetServer,
    seed: int,
    file: Path,
    progress: ProgressLine,
    is_enough: IsEnough | None = None,
) -> LoadRun:
    """Run the scenario on a server, and write its rows to `file`; `is_enough` may end the load before its time.

    Once the load has started, an error or a cancellation of this task ends it, and `ended_early` of the result says so:
    the rows so far are reported.

    Raises:
        NoRequestError: the scenario's load has no request.
        LoadTestError: the load can't start.
    """
    models = await resolve_models(target.url, RequestPlan(scenario, seed).routes, target.base, target.api_key)
    run = LoadRun(target.name, scenario, seed)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ChatClient(target.url, target.api_key, timeout=scenario.timeout))
        rows = stack.enter_context(RowWriter(file))
        progress.begin(f"{target.name}: measuring the tokenizer")
        plan = RequestPlan(
            scenario, seed, tokens_per_number=await _tokens_per_number(client, scenario, models.values())
        )
        rows.write_about(
            {"target": target.name, "seed": seed, "scenario": scenario.model_dump(mode="json", exclude_unset=True)}
        )

        def sink(row: RequestRow) -> None:
            rows.append(row)
            run.rows.append(row)

        loop = OpenLoop(client, models, sink, scenario.output, drain=scenario.drain)
        requests = plan.load()
        if is_enough is not None:
            requests = itertools.takewhile(lambda planned: not is_enough(planned.at, run.rows), requests)
        job = _fine_tuning_job(scenario, target, models)
        await _run_phases(run, plan.warm_up(), requests, loop, progress, job)
        rows.write_about({"end": RunEnd.model_validate(run).model_dump()})
    if not any(row.phase == "load" for row in run.rows):
        if run.ended_early:
            raise LoadTestError(run.ended_early)
        raise NoRequestError(f"the scenario sends no request within {scenario.duration:g} s")
    return run


async def _run_phases(
    run: LoadRun,
    warm_up: Iterable[PlannedRequest],
    requests: Iterable[PlannedRequest],
    loop: OpenLoop,
    progress: ProgressLine,
    job: AbstractAsyncContextManager[TuningJob | None],
) -> None:
    """Run warm-up and load, and record in `run` if they end early."""
    cpu_seconds, started = 0.0, 0.0
    tuning_job: TuningJob | None = None
    try:
        async with repeated(progress.refresh, REFRESH_INTERVAL_S):
            progress.begin(f"{run.target}: warming up", lambda: loop.counts)
            await loop.warm_up(warm_up)
            progress.begin(f"{run.target}: {run.scenario.title}", lambda: loop.counts)
            cpu_seconds, started = time.process_time(), time.monotonic()
            with short_gc_pauses():
                async with job as tuning_job:
                    await loop.run(requests)
    except ServerGoneError as error:
        run.ended_early = str(error)
    except asyncio.CancelledError:
        run.ended_early = "interrupted"
    if tuning_job:
        run.notes.append(tuning_job.description)
        if tuning_job.running_since is not None and tuning_job.running_until is not None:
            run.job_ran = tuning_job.running_since - loop.begin, tuning_job.running_until - loop.begin
    if started:
        run.client_busy = (time.process_time() - cpu_seconds) / max(time.monotonic() - started, 1e-9)


async def _tokens_per_number(client: ChatClient, scenario: Scenario, models: Iterable[str]) -> float | None:
    """The tokenizer's tokens per number on this server; None if the prompts come from a corpus."""
    return None if scenario.input.corpus else await measure_tokens(client, next(iter(models)))


def _fine_tuning_job(
    scenario: Scenario, target: TargetServer, models: Mapping[str, str]
) -> AbstractAsyncContextManager[TuningJob | None]:
    """The context of the scenario's fine-tuning job, if it has one."""
    if scenario.fine_tuning is None:
        return nullcontext()
    options = scenario.fine_tuning.model_copy(update={"data": scenario.find_file(scenario.fine_tuning.data)})
    return job_during_load(options, target.url, models.get(BASE) or next(iter(models.values())), target.api_key)
