"""Runs the parts of the GPU benchmark."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import uvloop

from benchmarks.gpu.check_parts import CHECK_PARTS, CheckSetup, run_check_part
from benchmarks.gpu.options import SMALL_KV_CACHE, GpuOptions
from benchmarks.gpu.parts import SLOTS, all_parts, measure
from benchmarks.gpu.shapes import AdapterSet, write_adapter_set, write_base
from benchmarks.gpu.stored import StoredPart
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.servers import ServerSetup


@dataclass
class PartsRunner:
    """Runs parts in one folder; bases and adapters for the speed are written when they are needed."""

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
        setup = ServerSetup(self._base, {}, self.options.arguments, self.options.environment)
        cells, gaps = uvloop.run(measure(part, setup, adapters, self.options.size, scratch, self.progress))
        return StoredPart({}, cells, gaps)

    def _check_setup(self, scratch: Path) -> CheckSetup:
        return CheckSetup(
            scratch,
            self.tokenizer,
            self.options.arguments,
            self.options.environment,
            self.options.checked_shape,
            self.options.blocks,
            self.options.long_context,
            SMALL_KV_CACHE if self.options.tiny else {},
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
