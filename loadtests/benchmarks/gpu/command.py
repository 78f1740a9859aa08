"""Measures the parts of the GPU benchmark within a time limit, and prints their table."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.command import FAILED, GOAL_MISSED, engine_argument, stop_on_sigterm
from benchmarks.gpu.parts import ServerPart, TrafficSize, all_parts, measure, store_part
from benchmarks.gpu.shapes import EIGHT_B, TINY, write_adapter_set, write_base
from benchmarks.gpu.table import StoredPart, read_parts, tables
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT, demo_base
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.machine import describe_machine
from loramux_loadtests.servers import ServerFailedError, ServerSetup

ON_CUDA: Mapping[str, Any] = {
    "load_format": "dummy",
    "dtype": "bfloat16",
    "max_model_len": 4096,
    "max_num_seqs": 256,
    "gpu_memory_utilization": 0.85,
}
CUDA_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_USE_DEEP_GEMM": "0"}
"""For both servers: without kernels that have to be downloaded."""
FULL = TrafficSize(seconds=15.0, rate=16.0, streams=128, input_tokens=256, output_tokens=128, many=1000)
SMALL = TrafficSize(seconds=2.0, rate=4.0, streams=4, input_tokens=32, output_tokens=8, many=24)

stderr = Console(stderr=True, highlight=False, markup=False)


@dataclass(frozen=True)
class GpuOptions:
    """The options that all parts of one table share."""

    tiny: bool = False
    tokenizer: Path | None = None
    """Folder of the model whose tokenizer is used; None for the demo's base."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Additional vLLM arguments."""

    @property
    def size(self) -> TrafficSize:
        """How much is measured."""
        return SMALL if self.tiny else FULL

    @property
    def shape(self) -> Mapping[str, Any]:
        """The shape of the base."""
        return TINY if self.tiny else EIGHT_B

    @property
    def arguments(self) -> dict[str, Any]:
        """All vLLM arguments, the same for both servers."""
        return {**(ENGINE | {"load_format": "dummy"} if self.tiny else ON_CUDA), **self.engine}

    @property
    def about(self) -> dict[str, Any]:
        """The options that parts of one table must share, without paths, which may contain user names."""
        tokenizer = self.tokenizer.resolve().name if self.tokenizer else "demo"
        return {"engine": self.arguments, "shape": dict(self.shape), "size": vars(self.size), "tokenizer": tokenizer}


def main(
    part: Annotated[list[str] | None, typer.Option(help="Measure only this part. May be repeated.")] = None,
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
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Trial run of this script on a CPU; its results mean nothing.")
    ] = False,
    table_only: Annotated[
        bool, typer.Option("--table", help="Only print the table of the parts that were measured with these options.")
    ] = False,
) -> None:
    """Measure loramux and stock vLLM with random weights in the shape of an 8B model, and print one table.

    Each part is stored in OUTPUT when it is done, and measured again only if its options differ or requests failed: the
    same command continues an interrupted run.
    """
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
        cells = [cell for each in _with_same_options(read_parts(output), options).values() for cell in each.cells]
    except (LoadTestError, ServerFailedError) as error:
        stderr.print(str(error), style="red")
        raise typer.Exit(FAILED) from error
    print(tables(cells))  # noqa: T201 - it is the result
    if any(cell.failed for cell in cells):
        raise typer.Exit(GOAL_MISSED)


def _with_same_options(stored: Mapping[str, StoredPart], options: GpuOptions) -> dict[str, StoredPart]:
    return {name: each for name, each in stored.items() if not each.differences(options.about)}


def _parts_to_measure(names: list[str], stored: Mapping[str, StoredPart], options: GpuOptions) -> list[ServerPart]:
    known = all_parts(options.size.many)
    if unknown := [name for name in names if name not in known]:
        raise LoadTestError(f"unknown part {', '.join(unknown)}; expected {', '.join(known)}")
    done = {name for name, each in _with_same_options(stored, options).items() if not each.failed}
    return [known[name] for name in names or known if name not in done]


def _measure(parts: list[ServerPart], output: Path, options: GpuOptions, limit: float) -> None:
    if not parts:
        return
    started, size = time.monotonic(), options.size
    with tempfile.TemporaryDirectory(prefix="loramux-gpu-") as folder, ProgressLine(stderr) as progress:
        scratch = Path(folder)
        tokenizer = options.tokenizer or uvloop.run(demo_base(progress.begin))
        progress.begin("writing the base and adapters")
        name = "tiny" if options.tiny else "shape-of-8b"
        base = write_base(scratch / name, tokenizer, options.shape, options.arguments["dtype"])
        adapters = write_adapter_set(scratch / "adapters", base, 16, size.many if any(p.many for p in parts) else 0)
        setup = ServerSetup(base, {}, options.arguments, ENVIRONMENT if options.tiny else CUDA_ENVIRONMENT)
        about = {"machine": describe_machine(), **options.about}
        for number, part in enumerate(parts):
            if number and time.monotonic() - started > limit:
                progress.print_line(
                    "time limit reached; run the same command again to measure: "
                    + ", ".join(each.name for each in parts[number:])
                )
                return
            part_started = time.monotonic()
            (scratch / part.name).mkdir()
            cells = uvloop.run(measure(part, setup, adapters, size, scratch / part.name, progress))
            store_part(part, cells, part_started, output, about)
