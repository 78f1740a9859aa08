"""The options that all parts of one table share, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.checked_base import CHECKED
from benchmarks.gpu.parts import TrafficSize
from benchmarks.gpu.shapes import EIGHT_B, TINY
from loramux_loadtests.loadtest.local_servers import ENGINE, ENVIRONMENT

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

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables of both servers."""
        return {**(ENVIRONMENT if self.tiny else CUDA_ENVIRONMENT), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}

    @property
    def checked_shape(self) -> Mapping[str, Any]:
        """The shape of the base with known weights."""
        return TINY if self.tiny else CHECKED

    @property
    def blocks(self) -> int:
        """Blocks of the KV cache while answers are checked."""
        return SMALL_BLOCKS if self.tiny else BLOCKS

    @property
    def long_context(self) -> Mapping[str, Any]:
        """The shape of a base whose context does not fit."""
        return {**self.shape, "max_position_embeddings": SMALL_LONG_CONTEXT if self.tiny else LONG_CONTEXT}
