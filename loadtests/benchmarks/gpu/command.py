"""Measures the parts of the GPU benchmark within a time limit, and prints their table."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks.command import FAILED, GOAL_MISSED, engine_argument, stop_on_sigterm
from benchmarks.gpu.check_parts import CHECK_PARTS
from benchmarks.gpu.options import GpuOptions
from benchmarks.gpu.parts import all_parts
from benchmarks.gpu.parts_runner import PartsRunner
from benchmarks.gpu.stored import StoredPart, read_parts, store_part
from benchmarks.gpu.table import tables
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import demo_base
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.machine import describe_machine
from loramux_loadtests.servers import ServerFailedError

stderr = Console(stderr=True, highlight=False, markup=False)


def main(
    part: Annotated[list[str] | None, typer.Option(help="Check or measure only this part. May be repeated.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the measured parts, which make up the table.",
            show_default="gpu-results, or gpu-results-tiny with --tiny",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the model whose tokenizer is used; default: the demo's base.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="vLLM argument. May be repeated.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which no further part is started.")] = 420.0,
    install: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Only of run.py: first install this vLLM, 0.32.0 or 0.33.0, into the folder .gpu-vllm-VERSION.",
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Trial run of this script on a CPU; its results mean nothing.")
    ] = False,
    table_only: Annotated[
        bool, typer.Option("--table", help="Only print the table of the parts that were measured with these options.")
    ] = False,
) -> None:
    """Check loramux on this GPU, compare its speed with stock vLLM's on the shape of an 8B model, and print one table.

    Each part is stored in OUTPUT when it is done, and measured again only if its options differ or requests failed: the
    same command continues an interrupted run.
    """
    if install is not None:
        raise typer.BadParameter("--install is an option of loadtests/benchmarks/gpu/run.py")
    stop_on_sigterm()
    options = GpuOptions(tiny, tokenizer, dict(map(engine_argument, engine or [])))
    output = output or Path("gpu-results-tiny" if tiny else "gpu-results")
    try:
        stored = read_parts(output)
        for name, each in stored.items():
            if differences := each.differences(options.about):
                stderr.print(f"{name} in {output} is ignored: its options differ in {', '.join(differences)}")
        if not table_only:
            _measure(_parts_to_measure(part or [], stored, options), output, options, limit)
        results = list(_in_order(_with_same_options(read_parts(output), options), options))
    except (LoadTestError, ServerFailedError) as error:
        stderr.print(str(error), style="red")
        raise typer.Exit(FAILED) from error
    print(tables(results))  # noqa: T201 - it is the result
    if any(each.failed for each in results):
        raise typer.Exit(GOAL_MISSED)


def _with_same_options(stored: Mapping[str, StoredPart], options: GpuOptions) -> dict[str, StoredPart]:
    return {name: each for name, each in stored.items() if not each.differences(options.about)}


def _part_names(options: GpuOptions) -> list[str]:
    """Return the names of all parts: the checks are first, because the speed of wrong answers is worth nothing."""
    return [*CHECK_PARTS, *all_parts(options.size.many)]


def _in_order(parts: Mapping[str, StoredPart], options: GpuOptions) -> Iterator[StoredPart]:
    yield from (parts[name] for name in _part_names(options) if name in parts)


def _parts_to_measure(names: list[str], stored: Mapping[str, StoredPart], options: GpuOptions) -> list[str]:
    known = _part_names(options)
    if unknown := [name for name in names if name not in known]:
        raise LoadTestError(f"unknown part {', '.join(unknown)}; expected {', '.join(known)}")
    done = {name for name, each in _with_same_options(stored, options).items() if not each.failed}
    return [name for name in names or known if name not in done]


def _measure(parts: list[str], output: Path, options: GpuOptions, limit: float) -> None:
    if not parts:
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loramux-gpu-") as folder, ProgressLine(stderr) as progress:
        run = PartsRunner(options, Path(folder), options.tokenizer or uvloop.run(demo_base(progress.begin)), progress)
        about = {"machine": describe_machine(), **options.about}
        for number, name in enumerate(parts):
            if number and time.monotonic() - started > limit:
                remaining = ", ".join(parts[number:])
                progress.print_line(f"time limit reached; run the same command again to measure: {remaining}")
                return
            part_started = time.monotonic()
            store_part(name, replace(run.result(name), about=about), part_started, output)
