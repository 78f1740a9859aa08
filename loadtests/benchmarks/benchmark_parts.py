"""Benchmarks with several parts, each with its own report."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from benchmarks.command import FAILED, engine_argument, prepared_base, print_error, run_benchmark, stop_on_sigterm
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT
from loramux_loadtests.servers import ServerFailedError, ServerSetup

BenchmarkPart = Callable[[ServerSetup, Path, StepProgress], Coroutine[Any, Any, BenchmarkReport]]


def run_parts(
    benchmark: str,
    parts: Mapping[str, BenchmarkPart],
    only: Sequence[str],
    setup: Callable[[], ServerSetup],
    results: Path,
) -> int:
    """Measure all parts, or those in `only`; one that fails does not stop the others.

    Writes BENCHMARK-PART.json and BENCHMARK-PART.md as soon as a part is done. Returns the exit code: 0, 1 if a goal is
    missed, 2 if a part failed.

    Raises:
        typer.BadParameter: `only` has an unknown part.
    """
    stop_on_sigterm()
    if unknown := set(only) - parts.keys():
        names = ", ".join(sorted(unknown))
        raise typer.BadParameter(f"unknown part {names}; expected {', '.join(parts)}", param_hint="--only")
    try:
        servers = setup()
    except ServerFailedError as error:
        print_error(str(error))
        return FAILED
    return max(_run_part(f"{benchmark}-{name}", parts[name], servers, results) for name in only or parts)


def _run_part(name: str, part: BenchmarkPart, setup: ServerSetup, results: Path) -> int:
    def measure(scratch: Path) -> BenchmarkReport:
        with StepProgress() as progress:
            return asyncio.run(part(setup, scratch, progress))

    return run_benchmark(name, measure, results)


def server_setup(base: Path | None, engine: Sequence[str]) -> ServerSetup:
    """Return the default setup with other vLLM arguments (NAME=VALUE each), and the demo's base if `base` is None.

    Raises:
        ServerFailedError: the demo's base could not be created.
    """
    own = {"dtype": native_dtype()} | dict(map(engine_argument, engine))
    return ServerSetup(base or prepared_base(), {}, ENGINE | own, ENVIRONMENT)


def native_dtype() -> str:
    """Return the data type that `loramux serve` chooses on this CPU: bfloat16 if it has instructions for it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
