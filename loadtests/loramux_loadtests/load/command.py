"""What `loramux loadtest` does; how it is called stands in the server's commands."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loramux_loadtests.load.errors import LoadTestError
from loramux_loadtests.load.prices import PriceList, load_prices
from loramux_loadtests.load.report import COLUMNS, Findings, document, facts, find, markdown, table, write_json
from loramux_loadtests.load.rows import read_rows
from loramux_loadtests.load.scenario import Scenario, load_scenario, scenarios
from loramux_loadtests.load.session import Run, run_load
from loramux_loadtests.load.targets import check_server, serving
from loramux_loadtests.load.watch import Watch
from loramux_loadtests.servers import ServerFailedError

OK, GOAL_MISSED, FAILED, INTERRUPTED = 0, 1, 2, 130

words = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Order:
    """What was asked for on the command line."""

    name: str
    scenario: Scenario
    servers: Sequence[str]
    seed: int
    output: Path
    api_key: str | None = None
    base: str | None = None
    prices: PriceList | None = None
    as_json: bool = False


def run(scenario: str, changes: Mapping[str, Any], prices: Path | None, **order: Any) -> int:
    """Run a scenario, by its name or path and with `changes`, against each server in turn; returns the exit code."""
    try:
        changed = load_scenario(scenario).changed(**changes)
        asked = Order(Path(scenario).stem, changed, prices=load_prices(prices) if prices else None, **order)
    except LoadTestError as error:
        return _failed(error)
    return _guarded(lambda: _run(asked))


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
    for server in order.servers:
        check_server(server)
    found: list[Findings] = []
    with Watch(words) as watch:
        for server in order.servers:
            async with serving(server, order.scenario, order.api_key, order.base, watch) as target:
                run = await run_load(order.scenario, target, order.seed, rows_path(order, server), watch)
            found.append(find(run, order.prices))
            write(order, found)
            if run.ended_early:
                break
    show(order, found)
    return code_of(found)


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


def _recalled(path: Path) -> Run:
    about, rows = read_rows(path)
    if not any(row.phase == "load" for row in rows):
        raise LoadTestError(f"{path} holds nothing but a warm-up")
    try:
        scenario = Scenario.model_validate(about["scenario"])
        return Run(str(about["target"]), scenario, int(about["seed"]), rows)
    except (KeyError, ValueError) as error:
        raise LoadTestError(f"{path} does not begin with what its load test was: {error}") from error


def rows_path(order: Order, server: str) -> Path:
    """Where the rows of one server go. Whatever the user calls things, the name is a plain one."""
    return order.output / f"load-{plain(order.name)}.{plain(server)}.jsonl"


def plain(text: str) -> str:
    """Text that can be part of a file's name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:80] or "unnamed"


def write(order: Order, found: Sequence[Findings]) -> None:
    """Write the report as JSON, Markdown and HTML."""
    from loramux_loadtests.load.page import page  # matplotlib takes a second, which should not be the load's

    place = order.output / f"load-{plain(order.name)}"
    write_json(place.with_suffix(".json"), document(found))
    place.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    place.with_suffix(".html").write_text(page(found), encoding="utf-8")


def show(order: Order, found: Sequence[Findings]) -> None:
    """Print the report: the table for people, or JSON for programs."""
    out = Console(highlight=False)
    if order.as_json:
        out.print(Text(json.dumps(document(found), allow_nan=False)), soft_wrap=True)
        return
    lines = Table()
    for column in COLUMNS:
        lines.add_column(column)
    for row in table(found):
        lines.add_row(*(Text(cell) for cell in row))
    out.print(lines)
    for each in found:
        for fact in facts(each):
            out.print(Text(fact))
    words.print(Text(f"written: {order.output / f'load-{plain(order.name)}'}.html, .md, .json"))
