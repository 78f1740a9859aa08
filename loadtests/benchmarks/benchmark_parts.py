"""Benchmarks of several parts: each is measured and written down by itself, whatever becomes of the others."""

import asyncio
import signal
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.bursts import BurstFailedError
from benchmarks.overhead.command import argument, prepared_base
from benchmarks.progress import Steps
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT
from loramux_loadtests.report import Report, table, write
from loramux_loadtests.servers import ServerFailedError, Setup

Part = Callable[[Setup, Path, Steps], Coroutine[Any, Any, Report]]


def run(
    benchmark: str, parts: Mapping[str, Part], only: Sequence[str], setup: Callable[[], Setup], results: Path
) -> int:
    """Measure all parts, or `only` some, and write BENCHMARK-PART.json and .md for each as soon as it is done.

    Returns the exit code: 0, 1 if a goal is missed, 2 if something could not be measured. Raises typer.BadParameter for
    a part that is none.
    """
    # Whoever ends us politely must not leave our servers running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := set(only) - parts.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {', '.join(parts)}", param_hint="--only")
    try:
        made = setup()
    except ServerFailedError as error:
        _tell(str(error))
        return 2
    return max(_measured(f"{benchmark}-{name}", parts[name], made, results) for name in only or parts)


def _measured(name: str, part: Part, setup: Setup, results: Path) -> int:
    """The exit code that this part alone would have."""
    try:
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
            report = asyncio.run(part(setup, Path(scratch), steps))
    except (ServerFailedError, BurstFailedError, OSError) as error:
        _tell(f"{name}: {error}")
        return 2
    write(report, results, name)
    Console().print(Markdown(table(report)))
    return 0 if report.met else 1


def _tell(words: str) -> None:
    Console(stderr=True).print(words, style="red", markup=False, highlight=False)


def setup_of(base: Path | None, engine: Sequence[str]) -> Setup:
    """Put vLLM's arguments, NAME=VALUE each, over our own, and the demo's base where none is given.

    Raises ServerFailedError.
    """
    own = {"dtype": suited_dtype()} | dict(map(argument, engine))
    return Setup(base or prepared_base(), {}, ENGINE | own, ENVIRONMENT)


def suited_dtype() -> str:
    """What `loramux serve` chooses on this CPU: bfloat16 if it has instructions for it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
