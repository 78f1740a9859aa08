"""What many adapters cost: `python -m loramux_loadtests.bench_churn`, or `make bench-churn`."""

import asyncio
import signal
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from loramux_loadtests.bad_adapters import bad
from loramux_loadtests.bursts import BurstFailedError
from loramux_loadtests.churn import cold, gaps, throughput
from loramux_loadtests.many import many
from loramux_loadtests.overhead import ENGINE, ENVIRONMENT, RESULTS, argument, demo_base
from loramux_loadtests.report import Report, table, write
from loramux_loadtests.servers import ServerFailedError, Setup
from loramux_loadtests.steps import Steps

PARTS = ("throughput", "gaps", "cold", "bad", "many")


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Some of: {', '.join(PARTS)}.")] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM, such as dtype=float32.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base's folder; the demo's, if it is not given.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often the throughput is measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few adapters, one round.")] = False,
    results: Annotated[Path, typer.Option(help="Where the reports are written.")] = RESULTS,
) -> None:
    """Compare loramux with stock vLLM while adapters come and go, and exit with 1 if a goal is missed.

    Each part writes its own report, churn-PART.json and churn-PART.md, as soon as it is done.
    """
    # Whoever ends us politely must not leave our servers running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := set(only or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}", param_hint="--only")
    own = {"dtype": suited_dtype()} | dict(map(argument, engine or []))
    met = True
    try:
        setup = Setup(base or demo_base(), {}, ENGINE | own, ENVIRONMENT)
        for part in only or PARTS:
            with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
                report = asyncio.run(_parts(setup, Path(scratch), steps, rounds, quick=quick)[part]())
            write(report, results, f"churn-{part}")
            Console().print(Markdown(table(report)))
            met = met and report.met
    except (ServerFailedError, BurstFailedError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    raise typer.Exit(0 if met else 1)


def _parts(
    setup: Setup, scratch: Path, steps: Steps, rounds: int, *, quick: bool
) -> Mapping[str, Callable[[], Coroutine[Any, Any, Report]]]:
    return {
        "throughput": partial(throughput, setup, 12 if quick else 40, 1 if quick else rounds, scratch, steps),
        "gaps": partial(gaps, setup, 2 if quick else 20, scratch, steps),
        "cold": partial(cold, setup, 10 if quick else 20, scratch, steps),
        "bad": partial(bad, setup, scratch, steps),
        "many": partial(many, setup, 100 if quick else 10_000, scratch, steps),
    }


def suited_dtype() -> str:
    """What `loramux serve` chooses on this CPU: bfloat16 if it has instructions for it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


if __name__ == "__main__":
    typer.run(main)
