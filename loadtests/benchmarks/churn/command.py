"""Cost of many adapters: `python -m benchmarks.churn`, or `make bench-churn`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import BenchmarkPart, run_parts, server_setup
from benchmarks.churn.configured import measure_configured
from benchmarks.churn.load_latency import measure_cold_start, measure_gaps
from benchmarks.churn.scale import measure_scale
from benchmarks.churn.throughput import measure_throughput
from benchmarks.command import RESULTS
from benchmarks.robustness.robustness import all_cases, measure_robustness


def main(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Measure only this part. May be repeated.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="vLLM argument, such as dtype=float32. May be repeated."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model; default: the demo's base.")] = None,
    stock: Annotated[bool, typer.Option(help="Whether the part `bad` tries stock vLLM, too.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often throughput and starts are measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Trial run: few adapters, few cases, one round.")] = False,
    results: Annotated[Path, typer.Option(help="Folder for the reports.")] = RESULTS,
) -> None:
    """Compare loramux with stock vLLM while adapters are loaded and unloaded.

    The parts are throughput, gaps, cold, bad, many and configured. Each writes churn-PART.json and churn-PART.md as
    soon as it is done. Exit code: 0; 1 if a goal is missed, 2 if a part failed.
    """
    code = run_parts(
        "churn", parts(rounds, quick=quick, stock=stock), only or [], partial(server_setup, base, engine or []), results
    )
    raise typer.Exit(code)


def parts(rounds: int, *, quick: bool, stock: bool = True) -> Mapping[str, BenchmarkPart]:
    """Return the parts by name; `quick` makes a short trial run of each."""
    cases = all_cases()
    if quick:
        cases = {name: cases[name] for name in list(cases)[::8]}
        rounds = 1
    return {
        "throughput": partial(measure_throughput, count=12 if quick else 40, rounds=rounds),
        "gaps": partial(measure_gaps, loads=3 if quick else 20),
        "cold": partial(measure_cold_start, count=3 if quick else 20),
        "bad": partial(measure_robustness, cases=cases, servers=("loramux", "stock") if stock else ("loramux",)),
        "many": partial(measure_scale, count=200 if quick else 10_000, rounds=rounds),
        "configured": partial(measure_configured, count=20 if quick else 300, rounds=rounds),
    }
