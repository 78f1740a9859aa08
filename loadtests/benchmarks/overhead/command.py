"""What loramux costs over the bare engine: `python -m benchmarks.overhead.command`, or `make bench-overhead`."""

import asyncio
import json
import signal
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.bursts import BurstFailedError, Traffic
from benchmarks.overhead.side_by_side import (
    Plan,
    loramux_against_stock,
    metered_against_unmetered,
    stock_against_itself,
)
from benchmarks.overhead.starts import second_start, start_with_many
from benchmarks.progress import Steps
from loramux_loadtests.examples import example_adapters
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT, demo_base
from loramux_loadtests.report import table, write
from loramux_loadtests.servers import ServerFailedError, Setup

RESULTS = Path("loadtests/results")

QUICK = Plan(Traffic(streams=4, tokens=8), rounds=1, turns=1)


def main(
    base: Annotated[Path | None, typer.Option(help="The base's folder; the demo's, if it is not given.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="An adapter; the examples, if none is given.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM, such as dtype=bfloat16.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="Bursts for each server on each route in one round.")] = 4,
    streams: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 16,
    tokens: Annotated[int, typer.Option(min=2, help="Output tokens of each stream.")] = 64,
    start: Annotated[bool, typer.Option("--start", help="Measure a second start against stock vLLM's.")] = False,
    many: Annotated[int, typer.Option(min=0, help="Measure a start with this many adapters against one with 3.")] = 0,
    noise: Annotated[bool, typer.Option("--noise", help="Measure stock vLLM against itself.")] = False,
    metering: Annotated[
        bool, typer.Option("--metering", help="Measure loramux with its metering against without.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: little traffic, one round.")] = False,
    results: Annotated[Path, typer.Option(help="Where the reports are written.")] = RESULTS,
) -> None:
    """Compare loramux with stock vLLM under the same traffic, and exit with 1 if a goal is missed.

    Writes overhead.json and overhead.md; with --start, --many, --noise or --metering it measures only that, and writes
    overhead-start, overhead-many, overhead-noise or overhead-metering.
    """
    # Whoever ends us politely must not leave our servers running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = QUICK if quick else Plan(Traffic(streams, tokens), rounds, turns)
    try:
        setup = Setup(
            base or prepared_base(), _folders(adapter or []), ENGINE | dict(map(argument, engine or [])), ENVIRONMENT
        )
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
            if start:
                name, measuring = "overhead-start", second_start(setup, plan.rounds, Path(scratch), steps)
            elif many:
                name, measuring = "overhead-many", start_with_many(setup, many, plan.rounds, Path(scratch), steps)
            elif noise:
                name, measuring = "overhead-noise", stock_against_itself(setup, plan, Path(scratch), steps)
            elif metering:
                name, measuring = "overhead-metering", metered_against_unmetered(setup, plan, Path(scratch), steps)
            else:
                name, measuring = "overhead", loramux_against_stock(setup, plan, Path(scratch), steps)
            report = asyncio.run(measuring)
    except (ServerFailedError, BurstFailedError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    write(report, results, name)
    Console().print(Markdown(table(report)))
    if not report.met and not noise:
        raise typer.Exit(1)


def prepared_base() -> Path:
    """Return the demo's base, and show the progress of creating it.

    Raises:
        ServerFailedError: loramux, which creates it, did not start.
    """
    with Steps() as steps:
        return asyncio.run(demo_base(steps.begin))


def _folders(words: list[str]) -> dict[str, Path]:
    if not words:
        return example_adapters()
    pairs = [word.partition("=") for word in words]
    return {name: Path(folder).resolve() for name, _, folder in pairs}


def argument(word: str) -> tuple[str, Any]:
    """NAME=VALUE as vLLM's argument, its value read as JSON where it is."""
    name, _, value = word.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    typer.run(main)
