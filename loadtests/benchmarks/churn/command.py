"""What many adapters cost: `python -m benchmarks.churn.command`, or `make bench-churn`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import Part, run, setup_of
from benchmarks.churn.load_latency import cold, gaps
from benchmarks.churn.scale import many
from benchmarks.churn.throughput import throughput
from benchmarks.overhead.command import RESULTS
from benchmarks.robustness.robustness import bad, cases


def main(
    only: Annotated[list[str] | None, typer.Option(metavar="PART", help="Only this part; may be repeated.")] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM, such as dtype=float32.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base's folder; the demo's, if it is not given.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often throughput and starts are measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few adapters, few cases, one round.")] = False,
    results: Annotated[Path, typer.Option(help="Where the reports are written.")] = RESULTS,
) -> None:
    """Compare loramux with stock vLLM while adapters come and go, and exit with 1 if a goal is missed.

    The parts are throughput, gaps, cold, bad and many. Each writes churn-PART.json and churn-PART.md as soon as it is
    done; one that could not be measured keeps none of the others from it, and makes the exit code 2.
    """
    measured = run("churn", parts(rounds, quick=quick), only or [], partial(setup_of, base, engine or []), results)
    raise typer.Exit(measured)


def parts(rounds: int, *, quick: bool) -> Mapping[str, Part]:
    """What is measured, by its name; `quick` only shows that it works."""
    tried = cases()
    if quick:
        tried = {name: tried[name] for name in list(tried)[::8]}
        rounds = 1
    return {
        "throughput": partial(throughput, count=12 if quick else 40, rounds=rounds),
        "gaps": partial(gaps, loads=3 if quick else 20),
        "cold": partial(cold, count=3 if quick else 20),
        "bad": partial(bad, tried=tried),
        "many": partial(many, count=200 if quick else 10_000, rounds=rounds),
    }


if __name__ == "__main__":
    typer.run(main)
