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

from loramux_loadtests.bursts import BurstFailedError
from loramux_loadtests.churn import throughput
from loramux_loadtests.harm import bad, cases
from loramux_loadtests.loads import cold, gaps
from loramux_loadtests.many import many
from loramux_loadtests.overhead import ENGINE, ENVIRONMENT, RESULTS, argument, demo_base
from loramux_loadtests.report import Report, table, write
from loramux_loadtests.servers import ServerFailedError, Setup
from loramux_loadtests.steps import Steps

Part = Callable[[Setup, Path, Steps], Coroutine[Any, Any, Report]]


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
    # Whoever ends us politely must not leave our servers running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    known = parts(rounds, quick=quick)
    if unknown := set(only or ()) - known.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {', '.join(known)}", param_hint="--only")
    own = {"dtype": suited_dtype()} | dict(map(argument, engine or []))
    try:
        setup = Setup(base or demo_base(), {}, ENGINE | own, ENVIRONMENT)
    except ServerFailedError as error:
        _tell(str(error))
        raise typer.Exit(2) from error
    codes = [_measured(name, known[name], setup, results) for name in only or known]
    raise typer.Exit(max(codes))


def _measured(name: str, part: Part, setup: Setup, results: Path) -> int:
    """The exit code that this part alone would have."""
    try:
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
            report = asyncio.run(part(setup, Path(scratch), steps))
    except (ServerFailedError, BurstFailedError) as error:
        _tell(f"{name}: {error}")
        return 2
    write(report, results, f"churn-{name}")
    Console().print(Markdown(table(report)))
    return 0 if report.met else 1


def _tell(words: str) -> None:
    Console(stderr=True).print(words, style="red", markup=False, highlight=False)


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


def suited_dtype() -> str:
    """What `loramux serve` chooses on this CPU: bfloat16 if it has instructions for it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


if __name__ == "__main__":
    typer.run(main)
