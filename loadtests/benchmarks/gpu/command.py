"""Measures the parts of the GPU benchmark within a time limit, and prints their table."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.command import FAILED, GOAL_MISSED, engine_argument, stop_on_sigterm
from benchmarks.gpu.check_parts import CHECK_PARTS, CheckSetup, run_check_part
from benchmarks.gpu.checked_base import CHECKED
from benchmarks.gpu.parts import SLOTS, TrafficSize, all_parts, measure
from benchmarks.gpu.shapes import EIGHT_B, TINY, AdapterSet, write_adapter_set, write_base
from benchmarks.gpu.stored import StoredPart, read_parts, store_part
from benchmarks.gpu.table import tables
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
FULL = TrafficSize(seconds=15.0, rate=16.0, streams=128, input_tokens=256, output_tokens=128, many=1000, gaps=6)
SMALL = TrafficSize(seconds=2.0, rate=4.0, streams=4, input_tokens=32, output_tokens=8, many=24, gaps=2)
LONG_CONTEXT, SMALL_LONG_CONTEXT = 1 << 21, 1 << 17
"""Tokens of a context that does not fit: the full one takes 256 GiB of KV cache."""
SMALL_KV_CACHE = {"kv_cache_memory_bytes": 64 << 20}
"""Room for 32,768 tokens of the small base."""
BLOCKS, SMALL_BLOCKS = 96, 16
"""Of 16 tokens on a GPU, of 128 on a CPU."""

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
        run = _Run(options, Path(folder), options.tokenizer or uvloop.run(demo_base(progress.begin)), progress)
        about = {"machine": describe_machine(), **options.about}
        for number, name in enumerate(parts):
            if number and time.monotonic() - started > limit:
                remaining = ", ".join(parts[number:])
                progress.print_line(f"time limit reached; run the same command again to measure: {remaining}")
                return
            part_started = time.monotonic()
            store_part(name, replace(run.result(name), about=about), part_started, output)


@dataclass
class _Run:
    """One call of the command; bases and adapters for the speed are written when they are needed."""

    options: GpuOptions
    folder: Path
    tokenizer: Path
    progress: ProgressLine

    def result(self, name: str) -> StoredPart:
        """Return the results of a part, without its options."""
        scratch = self.folder / name
        scratch.mkdir()
        if name in CHECK_PARTS:
            return StoredPart({}, checks=uvloop.run(run_check_part(name, self._check_setup(scratch), self.progress)))
        part = all_parts(self.options.size.many)[name]
        adapters = self._small_adapters if part.many else self._full_adapters
        setup = ServerSetup(self._base, {}, self.options.arguments, self._environment)
        cells, gaps = uvloop.run(measure(part, setup, adapters, self.options.size, scratch, self.progress))
        return StoredPart({}, cells, gaps)

    @property
    def _environment(self) -> Mapping[str, str]:
        return {**(ENVIRONMENT if self.options.tiny else CUDA_ENVIRONMENT), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}

    def _check_setup(self, scratch: Path) -> CheckSetup:
        tiny = self.options.tiny
        return CheckSetup(
            scratch,
            self.tokenizer,
            self.options.arguments,
            self._environment,
            TINY if tiny else CHECKED,
            SMALL_BLOCKS if tiny else BLOCKS,
            {**self.options.shape, "max_position_embeddings": SMALL_LONG_CONTEXT if tiny else LONG_CONTEXT},
            SMALL_KV_CACHE if tiny else {},
        )

    @cached_property
    def _base(self) -> Path:
        self.progress.begin("writing the base")
        name = "tiny" if self.options.tiny else "shape-of-8b"
        return write_base(self.folder / name, self.tokenizer, self.options.shape, self.options.arguments["dtype"])

    @cached_property
    def _full_adapters(self) -> AdapterSet:
        self.progress.begin("writing adapters")
        return write_adapter_set(self.folder / "full", self._base, 2 * SLOTS, 0, self.options.size.gaps)

    @cached_property
    def _small_adapters(self) -> AdapterSet:
        self.progress.begin("writing many adapters")
        return write_adapter_set(self.folder / "small", self._base, 0, self.options.size.many, 0)
