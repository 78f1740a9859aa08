"""Measuring the parts one after the other, within a limit of time."""

import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from loramux_loadtests.gpu.parts import Part, Size, keep, measure, parts
from loramux_loadtests.gpu.shapes import EIGHT_B, TINY, write_adapters, write_base
from loramux_loadtests.gpu.table import read_cells, tables
from loramux_loadtests.load.errors import LoadTestError
from loramux_loadtests.load.watch import Watch
from loramux_loadtests.overhead import ENGINE, ENVIRONMENT, argument, demo_base
from loramux_loadtests.report import describe_machine
from loramux_loadtests.servers import ServerFailedError, Setup

ON_CUDA: Mapping[str, Any] = {
    "load_format": "dummy",
    "dtype": "bfloat16",
    "max_model_len": 4096,
    "max_num_seqs": 256,
    "gpu_memory_utilization": 0.85,
}
CUDA_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_USE_DEEP_GEMM": "0"}
"""Without the kernels that a machine without a network can't be brought; for both servers alike."""
FULL = Size(seconds=15.0, rate=16.0, streams=128, input_tokens=256, output_tokens=128, many=1000)
SMALL = Size(seconds=2.0, rate=4.0, streams=4, input_tokens=32, output_tokens=8, many=24)

words = Console(stderr=True, highlight=False, markup=False)


def main(
    part: Annotated[list[str] | None, typer.Option(help="Only this one. Again for another one.")] = None,
    output: Annotated[Path, typer.Option(help="Where the parts are kept; the table is made of all in it.")] = Path(
        "gpu-results"
    ),
    tokenizer: Annotated[Path | None, typer.Option(help="A model's folder; the demo's base, if not given.")] = None,
    engine: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which no further part is begun.")] = 420.0,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A trial of this script on a CPU: its figures mean nothing.")
    ] = False,
    table_only: Annotated[bool, typer.Option("--table", help="Print the table of what is there.")] = False,
) -> None:
    """Measure loramux and stock vLLM with random weights in the shape of an 8B model, and print one table.

    Each part is kept in OUTPUT when it is done; a part that is there already is not measured again, so the same command
    goes on where it was.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    size = SMALL if tiny else FULL
    try:
        if not table_only:
            wanted = _wanted(parts(size.many), part or [], output)
            _measure(wanted, output, tokenizer, dict(map(argument, engine or [])), size, limit, tiny=tiny)
        cells = read_cells(output)
    except (LoadTestError, ServerFailedError) as error:
        words.print(str(error), style="red")
        raise typer.Exit(2) from error
    print(tables(cells))  # noqa: T201 - it is the result
    if any(cell.failed for cell in cells):
        raise typer.Exit(1)


def _wanted(known: Mapping[str, Part], names: list[str], output: Path) -> list[Part]:
    if unknown := [name for name in names if name not in known]:
        raise LoadTestError(f"there is no part {', '.join(unknown)}: there is {', '.join(known)}")
    return [known[name] for name in names or known if not (output / f"gpu-{name}.json").exists()]


def _measure(
    wanted: list[Part],
    output: Path,
    tokenizer: Path | None,
    engine: Mapping[str, Any],
    size: Size,
    limit: float,
    *,
    tiny: bool,
) -> None:
    if not wanted:
        return
    begun = time.monotonic()
    arguments = {**(ENGINE | {"load_format": "dummy"} if tiny else ON_CUDA), **engine}
    with tempfile.TemporaryDirectory(prefix="loramux-gpu-") as folder, Watch(words) as watch:
        scratch = Path(folder)
        watch.begin("making the base and adapters")
        shape = TINY if tiny else EIGHT_B
        base = write_base(
            scratch / ("tiny" if tiny else "shape-of-8b"), tokenizer or demo_base(), shape, arguments["dtype"]
        )
        adapters = write_adapters(scratch / "adapters", base, 16, size.many if any(p.many for p in wanted) else 0)
        setup = Setup(base, {}, arguments, ENVIRONMENT if tiny else CUDA_ENVIRONMENT)
        about = {"machine": describe_machine(), "engine": arguments, "shape": dict(shape), "size": vars(size)}
        for number, part in enumerate(wanted):
            if number and time.monotonic() - begun > limit:
                watch.say(
                    f"not measured for want of time, run the same again: {', '.join(p.name for p in wanted[number:])}"
                )
                return
            started = time.monotonic()
            (scratch / part.name).mkdir()
            cells = uvloop.run(measure(part, setup, adapters, size, scratch / part.name, watch))
            keep(part, cells, started, output, about)
