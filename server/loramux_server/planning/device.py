"""The GPU of a plan, and what vLLM does with one by default."""

import math
from dataclasses import dataclass
from typing import Self

from loramux_server.gpus import Gpu

GIB = 1 << 30
MAX_SHARE = 0.92
"""vLLM's default of `gpu_memory_utilization`."""
CONTEXT_BYTES = 640 << 20
"""What CUDA takes for a process before vLLM looks at the free memory, at most: it depends on GPU and driver."""
MIN_CONTEXT_BYTES = 256 << 20
"""What it takes at least."""
_MANY_BYTES = 70 * GIB
_HUGE_BYTES = 160 * GIB
BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Device:
    """A GPU, as far as it decides what fits on it."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None
    """The compute capability; None if it is not known."""

    @classmethod
    def of(cls, gpu: Gpu) -> Self:
        """Return a GPU of this machine; all of its memory counts as free if its driver does not say."""
        free = gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes
        return cls(gpu.name, gpu.memory_bytes, free, gpu.compute_capability)

    @property
    def free_share(self) -> float:
        """The largest `gpu_memory_utilization` with which vLLM starts: it refuses a share that is not free."""
        return math.floor(max(0, self.free_bytes - CONTEXT_BYTES) / max(1, self.total_bytes) * 100) / 100

    @property
    def usable_share(self) -> float:
        """The `gpu_memory_utilization` that leaves some memory for others: vLLM's default, or less."""
        return min(MAX_SHARE, self.free_share)

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16; assumed of a GPU that is not known."""
        return self.capability is None or self.capability >= BFLOAT16_CAPABILITY

    @property
    def batch(self) -> "Batch":
        """The size of vLLM's steps on this GPU by default: a contract test compares them.

        vLLM makes an exception of the A100 by its name; it is the only GPU of its size with capability 8.0.
        """
        if self.total_bytes >= _HUGE_BYTES:
            return Batch(tokens=16384, requests=1024)
        if self.total_bytes >= _MANY_BYTES and self.capability != (8, 0):
            return Batch(tokens=8192, requests=1024)
        return Batch(tokens=2048, requests=256)


@dataclass(frozen=True)
class Batch:
    """The largest step of the engine."""

    tokens: int
    requests: int
