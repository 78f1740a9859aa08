"""How a busy server is shared: `python -m benchmarks.fairness`, or `make bench-fairness`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import BenchmarkPart, run_parts, server_setup
from benchmarks.command import RESULTS
from benchmarks.fairness.flood import measure_flood, measure_hot_adapter, measure_overload


def main(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Measure only this part. May be repeated.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="vLLM argument, such as dtype=float32. May be repeated."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model; default: the demo's base.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds that each load lasts.")] = 300.0,
    results: Annotated[Path, typer.Option(help="Folder for the reports.")] = RESULTS,
) -> None:
    """Measure how a busy server is shared.

    The parts are flood (one key floods, another asks once per second), hot (most of the load on one adapter) and
    overload (five times as many requests as the engine can run). Each writes fairness-PART.json and fairness-PART.md as
    soon as it is done. Exit code: 0; 1 if a goal is missed, 2 if a part failed.
    """
    parts: dict[str, BenchmarkPart] = {
        "flood": partial(measure_flood, seconds=seconds),
        "hot": partial(measure_hot_adapter, seconds=seconds),
        "overload": partial(measure_overload, seconds=seconds),
    }
    raise typer.Exit(run_parts("fairness", parts, only or [], partial(server_setup, base, engine or []), results))
