"""What `loramux loadtest` does; how it is called stands in the server's commands."""

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

from loramux_loadtests.loadtest.errors import LoadTestError, NoRequestError
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.output import Order, show, words, write
from loramux_loadtests.loadtest.prices import load_prices
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.report import Findings, find
from loramux_loadtests.loadtest.rows import read_rows
from loramux_loadtests.loadtest.scenario import Scenario, load_scenario, scenarios
from loramux_loadtests.loadtest.session import End, Run, Target, run_load
from loramux_loadtests.loadtest.sweep import Sweep, highest_rate
from loramux_loadtests.loadtest.targets import check_server, serving
from loramux_loadtests.servers import ServerFailedError

OK, GOAL_MISSED, FAILED, INTERRUPTED = 0, 1, 2, 130
KILLED = "it was killed, and the requests that were under way are missing here"


def run(scenario: str, changes: Mapping[str, Any], prices: Path | None, **order: Any) -> int:
    """Run a scenario, by its name or path and with `changes`, against each server in turn; returns the exit code."""
    return _guarded(lambda: _run(_order(scenario, changes, prices, order)))


def sweep(scenario: str, changes: Mapping[str, Any], prices: Path | None, precision: float, **order: Any) -> int:
    """Look for the highest rate at which each server meets the scenario's goal; returns the exit code."""

    async def looked_for() -> int:
        asked = _order(scenario, changes, prices, order)
        # A name of its own, for the report of a run of the same scenario to stay.
        return await _sweep(replace(asked, name=f"{asked.name}-sweep"), precision)

    return _guarded(looked_for)


def _order(scenario: str, changes: Mapping[str, Any], prices: Path | None, order: Mapping[str, Any]) -> Order:
    """LoadTestError for whatever of it makes no sense."""
    for server in order["servers"]:
        check_server(server)
    changed = load_scenario(scenario).changed(**changes)
    return Order(Path(scenario).stem, changed, prices=load_prices(prices) if prices else None, **order)


def _guarded(work: Callable[[], Awaitable[int]]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_until_told(work))
    except (LoadTestError, ServerFailedError) as error:
        return _failed(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _failed("interrupted", INTERRUPTED)


def _failed(reason: object, code: int = FAILED) -> int:
    words.print(Text(str(reason), style="red"), soft_wrap=True)
    return code


async def _until_told(work: Callable[[], Awaitable[int]]) -> int:
    """Do the work; SIGTERM ends it as Ctrl-C does, so that servers are stopped and rows reported."""
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _run(order: Order) -> int:
    found: list[Findings] = []
    with Watch(words) as watch:
        for server in order.servers:
            async with serving(server, order.scenario, order.api_key, order.base, watch) as target:
                run = await run_load(order.scenario, target, order.seed, order.rows(server), watch)
            found.append(find(run, order.prices))
            write(order, found)
            if run.ended_early:
                break
    show(order, found)
    return code_of(found)


async def _sweep(order: Order, precision: float) -> int:
    if order.scenario.goal is None:
        raise LoadTestError('a sweep needs a goal, such as --goal "ttft_p95<0.5,tpot_p95<0.1,errors<0.01"')
    found: list[Findings] = []
    sweeps: list[Sweep] = []
    with Watch(words) as watch:
        for server in order.servers:
            async with serving(server, order.scenario, order.api_key, order.base, watch) as target:
                sweeps.append(await _sweep_one(order, target, precision, found, watch))
            write(order, found, sweeps)
            if found[-1].run.ended_early:
                break
    show(order, found, sweeps)
    code = code_of(found)
    return code if code in (FAILED, INTERRUPTED) else OK if all(sweep.bracket.met for sweep in sweeps) else GOAL_MISSED


async def _sweep_one(order: Order, target: Target, precision: float, found: list[Findings], watch: Watch) -> Sweep:
    """Try rates on one server, whose findings are added to `found` and written as they come."""
    tried: list[float] = []

    async def meets(rate: float) -> bool | None:
        at_rate = order.scenario.changed(rate=rate)
        named = replace(target, name=f"{target.name} at {rate:.3g}/s")
        # Another seed each time: prompts that came before would be in the prefix cache.
        try:
            run = await run_load(at_rate, named, order.seed + len(tried), order.rows(named.name), watch)
        except NoRequestError as error:
            if not tried:
                raise
            watch.say(f"{named.name}: {error}")
            return None
        tried.append(rate)
        found.append(find(run, order.prices))
        write(order, found)
        watch.say("; ".join([named.name, *(found[-1].missed or ["the goal is met"])]))
        return None if run.ended_early else not found[-1].missed

    begin = order.scenario.arrivals.rate or 1.0
    return Sweep(target.name, str(parse_goal(order.scenario.goal or "")), await highest_rate(meets, begin, precision))


def code_of(found: Sequence[Findings]) -> int:
    """The exit code that these findings mean."""
    early = [each.run.ended_early for each in found if each.run.ended_early]
    if early:
        return INTERRUPTED if early[-1] == "interrupted" else FAILED
    if not all(each.total.completed for each in found):
        return FAILED
    return GOAL_MISSED if any(each.missed for each in found) else OK


def report(files: Sequence[Path], prices: Path | None, output: Path, *, as_json: bool) -> int:
    """Make the report anew from files of rows, such as a killed load test left; returns the exit code."""
    try:
        runs = [_recalled(path) for path in files]
        list_of_prices = load_prices(prices) if prices else None
        found = [find(run, list_of_prices) for run in runs]
    except LoadTestError as error:
        return _failed(error)
    name = files[0].name.removeprefix("load-").partition(".")[0]
    order = Order(name, runs[0].scenario, (), runs[0].seed, output, as_json=as_json)
    write(order, found)
    show(order, found)
    return code_of(found)


def _recalled(path: Path) -> Run:
    """A load from its rows. Of one that was killed, those of the requests that were under way are missing."""
    about, rows = read_rows(path)
    if not any(row.phase == "load" for row in rows):
        raise LoadTestError(f"{path} holds nothing but a warm-up")
    try:
        scenario = Scenario.model_validate(about["scenario"])
        end = dict(End.model_validate(about["end"])) if "end" in about else {"ended_early": KILLED}
        return Run(str(about["target"]), scenario, int(about["seed"]), rows, **end)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadTestError(f"{path} does not tell what its load test was: {error}") from error


def list_scenarios() -> int:
    """Print the scenarios of the repository."""
    out = Table("name", "title", "what it shows")
    try:
        for name in scenarios():
            scenario = load_scenario(name)
            out.add_row(name, Text(scenario.title), Text(" ".join(scenario.about.split())))
    except LoadTestError as error:
        return _failed(error)
    Console(highlight=False).print(out)
    return OK
