"""Measuring the parts one after the other, within a limit of time."""

import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.gpu.parts import Part, Size, keep, measure, parts
from benchmarks.gpu.shapes import EIGHT_B, TINY, write_adapters, write_base
from benchmarks.gpu.table import Kept, read_parts, tables
from benchmarks.overhead.command import argument
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT, demo_base
from loramux_loadtests.loadtest.progress import Watch
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


@dataclass(frozen=True)
class Asked:
    """What all parts of one table have in common."""

    tiny: bool = False
    tokenizer: Path | None = None
    """A model's folder, None for the demo's base."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of vLLM, besides those that it has here anyway."""

    @property
    def size(self) -> Size:
        """How much is measured."""
        return SMALL if self.tiny else FULL

    @property
    def shape(self) -> Mapping[str, Any]:
        """Of the base."""
        return TINY if self.tiny else EIGHT_B

    @property
    def arguments(self) -> dict[str, Any]:
        """All that both servers' engines get."""
        return {**(ENGINE | {"load_format": "dummy"} if self.tiny else ON_CUDA), **self.engine}

    @property
    def about(self) -> dict[str, Any]:
        """By which parts that were measured otherwise are told apart, without a path, which might name a user."""
        tokenizer = self.tokenizer.resolve().name if self.tokenizer else "demo"
        return {"engine": self.arguments, "shape": dict(self.shape), "size": vars(self.size), "tokenizer": tokenizer}


def main(
    part: Annotated[list[str] | None, typer.Option(help="Only this one. Again for another one.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the parts are kept, of which the table is made.",
            show_default="gpu-results, or gpu-results-tiny with --tiny",
        ),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A model's folder; the demo's base, if not given.")] = None,
    engine: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which no further part is begun.")] = 420.0,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A trial of this script on a CPU: its figures mean nothing.")
    ] = False,
    table_only: Annotated[
        bool, typer.Option("--table", help="Print the table of what is there, measured with these options.")
    ] = False,
) -> None:
    """Measure loramux and stock vLLM with random weights in the shape of an 8B model, and print one table.

    Each part is kept in OUTPUT when it is done, and is measured again only if that was with other options, or if
    requests failed: the same command goes on where it was.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = Asked(tiny, tokenizer, dict(map(argument, engine or [])))
    output = output or Path("gpu-results-tiny" if tiny else "gpu-results")
    try:
        kept = read_parts(output)
        for name, each in kept.items():
            if differences := each.otherwise(asked.about):
                words.print(f"{name} in {output} does not count: it has another {', '.join(differences)}")
        if not table_only:
            _measure(_wanted(part or [], kept, asked), output, asked, limit)
        cells = [cell for each in _alike(read_parts(output), asked).values() for cell in each.cells]
    except (LoadTestError, ServerFailedError) as error:
        words.print(str(error), style="red")
        raise typer.Exit(2) from error
    print(tables(cells))  # noqa: T201 - it is the result
    if any(cell.failed for cell in cells):
        raise typer.Exit(1)


def _alike(kept: Mapping[str, Kept], asked: Asked) -> dict[str, Kept]:
    return {name: each for name, each in kept.items() if not each.otherwise(asked.about)}


def _wanted(names: list[str], kept: Mapping[str, Kept], asked: Asked) -> list[Part]:
    known = parts(asked.size.many)
    if unknown := [name for name in names if name not in known]:
        raise LoadTestError(f"there is no part {', '.join(unknown)}: there is {', '.join(known)}")
    done = {name for name, each in _alike(kept, asked).items() if not each.failed}
    return [known[name] for name in names or known if name not in done]


def _measure(wanted: list[Part], output: Path, asked: Asked, limit: float) -> None:
    if not wanted:
        return
    begun, size = time.monotonic(), asked.size
    with tempfile.TemporaryDirectory(prefix="loramux-gpu-") as folder, Watch(words) as watch:
        scratch = Path(folder)
        tokenizer = asked.tokenizer or uvloop.run(demo_base(watch.begin))
        watch.begin("writing the base and adapters")
        name = "tiny" if asked.tiny else "shape-of-8b"
        base = write_base(scratch / name, tokenizer, asked.shape, asked.arguments["dtype"])
        adapters = write_adapters(scratch / "adapters", base, 16, size.many if any(p.many for p in wanted) else 0)
        setup = Setup(base, {}, asked.arguments, ENVIRONMENT if asked.tiny else CUDA_ENVIRONMENT)
        about = {"machine": describe_machine(), **asked.about}
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
