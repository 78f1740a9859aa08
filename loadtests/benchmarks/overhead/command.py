"""Overhead of loramux relative to stock vLLM: `python -m benchmarks.overhead`, or `make bench-overhead`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.bursts import BurstTraffic
from benchmarks.command import GOAL_MISSED, OK, RESULTS, engine_argument, prepared_base, run_benchmark
from benchmarks.overhead.side_by_side import (
    ComparisonPlan,
    loramux_against_stock,
    metered_against_unmetered,
    stock_against_itself,
)
from benchmarks.overhead.starts import second_start, start_with_many
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport
from loramux_loadtests.examples import example_adapters
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT
from loramux_loadtests.servers import ServerSetup

QUICK = ComparisonPlan(BurstTraffic(streams=4, tokens=8), rounds=1, turns=1)


def main(
    base: Annotated[Path | None, typer.Option(help="Folder of the base model; default: the demo's base.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Adapter; default: the examples. May be repeated."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="vLLM argument, such as dtype=bfloat16. May be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="Bursts per server, route and round.")] = 4,
    streams: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 16,
    tokens: Annotated[int, typer.Option(min=2, help="Output tokens per stream.")] = 64,
    start: Annotated[bool, typer.Option("--start", help="Measure a second start against stock vLLM's.")] = False,
    many: Annotated[int, typer.Option(min=0, help="Measure a start with N adapters against one with 3.")] = 0,
    noise: Annotated[bool, typer.Option("--noise", help="Measure stock vLLM against itself.")] = False,
    metering: Annotated[bool, typer.Option("--metering", help="Measure loramux with and without metering.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Trial run: little traffic, one round.")] = False,
    results: Annotated[Path, typer.Option(help="Folder for the reports.")] = RESULTS,
) -> None:
    """Compare loramux with stock vLLM under the same traffic. Exit code: 0; 1 if a goal is missed, 2 if it failed.

    Writes overhead.json and overhead.md; with --start, --many, --noise or --metering it measures only that, and writes
    overhead-start, overhead-many, overhead-noise or overhead-metering.
    """
    plan = QUICK if quick else ComparisonPlan(BurstTraffic(streams, tokens), rounds, turns)
    kinds = {"start": start, "many": bool(many), "noise": noise, "metering": metering}
    kind = next((name for name, chosen in kinds.items() if chosen), None)

    def measure(scratch: Path) -> BenchmarkReport:
        arguments = ENGINE | dict(map(engine_argument, engine or []))
        setup = ServerSetup(base or prepared_base(), _adapter_folders(adapter or []), arguments, ENVIRONMENT)
        with StepProgress() as progress:
            if kind == "start":
                return asyncio.run(second_start(setup, plan.rounds, scratch, progress))
            if kind == "many":
                return asyncio.run(start_with_many(setup, many, plan.rounds, scratch, progress))
            compare = {"noise": stock_against_itself, "metering": metered_against_unmetered}
            return asyncio.run(compare.get(kind or "", loramux_against_stock)(setup, plan, scratch, progress))

    code = run_benchmark(f"overhead-{kind}" if kind else "overhead", measure, results)
    raise typer.Exit(OK if noise and code == GOAL_MISSED else code)


def _adapter_folders(arguments: list[str]) -> dict[str, Path]:
    """Parse NAME=FOLDER arguments; the example adapters if there are none."""
    pairs = [argument.partition("=") for argument in arguments]
    return {name: Path(folder).resolve() for name, _, folder in pairs} or example_adapters()
