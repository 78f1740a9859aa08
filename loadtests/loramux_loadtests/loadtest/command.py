"""The commands of `loramux loadtest`, without their command-line options (see loramux_server.cli)."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.output import Invocation, print_report, stderr, write_report
from loramux_loadtests.loadtest.prices import load_prices
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.report import RunReport, report_run
from loramux_loadtests.loadtest.rows import read_rows
from loramux_loadtests.loadtest.scenario import Scenario, builtin_scenarios, load_scenario
from loramux_loadtests.loadtest.session import LoadRun, RunEnd, run_load
from loramux_loadtests.loadtest.sweep_session import SweepOptions, sweep_server
from loramux_loadtests.loadtest.targets import check_server, target_server
from loramux_loadtests.servers import ServerFailedError

OK, GOAL_MISSED, FAILED, INTERRUPTED = 0, 1, 2, 130
KILLED = "it was killed, so requests that were in flight are missing"


def run(scenario: str, changes: Mapping[str, Any], prices: Path | None, **options: Any) -> int:
    """Run a scenario (name or path) with `changes` against each server in turn, and return the exit code."""
    return _run_async(lambda: _run(_invocation(scenario, changes, prices, options)))


def sweep(
    scenario: str, changes: Mapping[str, Any], prices: Path | None, sweep_options: SweepOptions, **options: Any
) -> int:
    """Find the highest rate at which each server meets the scenario's goal and keeps up; return the exit code."""

    async def search() -> int:
        invocation = _invocation(scenario, changes, prices, options)
        # Under its own name, so that the report of a run of the same scenario is kept.
        return await _sweep(replace(invocation, name=f"{invocation.name}-sweep"), sweep_options)

    return _run_async(search)


def _invocation(
    scenario: str, changes: Mapping[str, Any], prices: Path | None, options: Mapping[str, Any]
) -> Invocation:
    """Check all arguments of a command; raises LoadTestError."""
    for server in options["servers"]:
        check_server(server)
    changed = load_scenario(scenario).with_changes(**changes)
    return Invocation(Path(scenario).stem, changed, prices=load_prices(prices) if prices else None, **options)


def _run_async(work: Callable[[], Awaitable[int]]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_cancelled_by_signals(work))
    except (LoadTestError, ServerFailedError) as error:
        return _print_error(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _print_error("interrupted", INTERRUPTED)


def _print_error(reason: object, code: int = FAILED) -> int:
    stderr.print(Text(str(reason), style="red"), soft_wrap=True)
    return code


async def _cancelled_by_signals(work: Callable[[], Awaitable[int]]) -> int:
    """Do the work; SIGTERM and SIGINT cancel it, so that servers are stopped and rows reported."""
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _run(invocation: Invocation) -> int:
    reports: list[RunReport] = []
    with ProgressLine(stderr) as progress:
        for server in invocation.servers:
            async with target_server(
                server, invocation.scenario, invocation.api_key, invocation.base, progress
            ) as target:
                run = await run_load(
                    invocation.scenario, target, invocation.seed, invocation.rows_path(server), progress
                )
            reports.append(report_run(run, invocation.prices))
            write_report(invocation, reports)
            if run.ended_early:
                break
    print_report(invocation, reports)
    return exit_code(reports)


async def _sweep(invocation: Invocation, options: SweepOptions) -> int:
    if invocation.scenario.goal is None:
        raise LoadTestError('a sweep needs a goal, such as --goal "ttft_p95<0.5,tpot_p95<0.1,errors<0.01"')
    reports: list[RunReport] = []
    sweeps = []
    with ProgressLine(stderr) as progress:
        for server in invocation.servers:
            async with target_server(
                server, invocation.scenario, invocation.api_key, invocation.base, progress
            ) as target:
                sweeps.append(await sweep_server(invocation, target, options, reports, progress))
            write_report(invocation, reports, sweeps)
            if reports[-1].run.ended_early:
                break
    print_report(invocation, reports, sweeps)
    code = exit_code(reports)
    return code if code in (FAILED, INTERRUPTED) else OK if all(sweep.bracket.met for sweep in sweeps) else GOAL_MISSED


def exit_code(reports: Sequence[RunReport]) -> int:
    """Return the exit code for these reports."""
    early = [each.run.ended_early for each in reports if each.run.ended_early]
    if early:
        return INTERRUPTED if early[-1] == "interrupted" else FAILED
    if not all(each.total.completed for each in reports):
        return FAILED
    return GOAL_MISSED if any(each.missed for each in reports) else OK


def report(files: Sequence[Path], prices: Path | None, output: Path, *, as_json: bool) -> int:
    """Make a report from files of rows, such as those of a killed load test, and return the exit code."""
    try:
        runs = [_run_from_rows(path) for path in files]
        price_list = load_prices(prices) if prices else None
        reports = [report_run(run, price_list) for run in runs]
    except LoadTestError as error:
        return _print_error(error)
    name = files[0].name.removeprefix("load-").partition(".")[0]
    invocation = Invocation(name, runs[0].scenario, (), runs[0].seed, output, as_json=as_json)
    write_report(invocation, reports)
    print_report(invocation, reports)
    return exit_code(reports)


def _run_from_rows(path: Path) -> LoadRun:
    """Restore a run from its rows. If it was killed, those of the requests in flight are missing."""
    about, rows = read_rows(path)
    if not any(row.phase == "load" for row in rows):
        raise LoadTestError(f"{path} contains only a warm-up")
    try:
        scenario = Scenario.model_validate(about["scenario"])
        end = dict(RunEnd.model_validate(about["end"])) if "end" in about else {"ended_early": KILLED}
        return LoadRun(str(about["target"]), scenario, int(about["seed"]), rows, **end)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadTestError(f"{path} does not describe its load test: {error}") from error


def list_scenarios() -> int:
    """Print the built-in scenarios."""
    out = Table("name", "title", "what it shows")
    try:
        for name in builtin_scenarios():
            scenario = load_scenario(name)
            out.add_row(name, Text(scenario.title), Text(" ".join(scenario.about.split())))
    except LoadTestError as error:
        return _print_error(error)
    Console(highlight=False).print(out)
    return OK
