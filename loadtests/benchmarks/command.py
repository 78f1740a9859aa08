"""The common frame of all benchmark commands: signals, progress, report, exit code; and arguments that they share."""

import asyncio
import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.bursts import BurstFailedError
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, metric_table, write_report
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import demo_base
from loramux_loadtests.servers import ServerFailedError

RESULTS = Path("loadtests/results")
OK, GOAL_MISSED, FAILED = 0, 1, 2
FAILURES = (ServerFailedError, BurstFailedError, LoadTestError, OSError)
"""Errors that a benchmark reports in one line, with the exit code FAILED."""


def run_benchmark(name: str, measure: Callable[[Path], BenchmarkReport], results: Path) -> int:
    """Measure with a scratch folder, write `name`.json and `name`.md to `results`, and print the table.

    Returns the exit code: OK, GOAL_MISSED or FAILED.
    """
    stop_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch:
            report = measure(Path(scratch))
    except FAILURES as error:
        print_error(f"{name}: {error}")
        return FAILED
    write_report(report, results, name)
    Console().print(Markdown(metric_table(report)))
    return OK if report.goals_met else GOAL_MISSED


def stop_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that the servers that it started are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def print_error(message: str) -> None:
    """Print an error in red to standard error."""
    Console(stderr=True).print(message, style="red", markup=False, highlight=False)


def prepared_base() -> Path:
    """Return the demo's base, showing the progress if it has to be created.

    Raises:
        ServerFailedError: loramux, which creates it, did not start.
    """
    with StepProgress() as progress:
        return asyncio.run(demo_base(progress.begin))


def engine_argument(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE as an argument of vLLM; the value is JSON where possible, text otherwise."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
