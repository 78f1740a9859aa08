"""The worker of the CUDA path's tests; vLLM imports it by name in the engine's process.

It is vLLM's worker for CPUs with the V2 model runner. What a CPU has in place of a GPU's code is changed back.
"""

from unittest.mock import patch

from vllm.v1.worker.cpu_worker import CPUWorker  # isort: skip - it replaces CUDA's streams and events first

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from triton.runtime import interpreter
from vllm.lora.ops.triton_ops import utils as lora_kernels
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.gpu.sample import prompt_logprob, sampler

from loramux_server.engine.worker import (  # noqa: F401 - see below
    embedding_batches,
    fused_layers,
    gpu_heads,
    lora_loading,
    sleep,
)

with patch.object(CpuPlatform, "is_cpu", lambda _: False):  # only here: the modules that it imports are imported above
    from loramux_server.engine.worker import extension  # noqa: F401 - changes vLLM as on a GPU

TILES = {
    "shrink": {"block_m": 16, "block_n": 64, "block_k": 128, "split_k": 1, "group_size_m": 8},
    "expand": {"block_m": 16, "block_n": 256, "block_k": 64},
}
"""Sizes of the LoRA kernels' tiles: vLLM's default is up to 64 programs where one is enough here."""
LAUNCH = {"num_warps": 4, "num_ctas": 1, "num_stages": 2, "max_nreg": None}


class InterpretedWorker(CPUWorker):  # type: ignore[misc] # vLLM is not typed
    """Adds methods for tests, which call them by `collective_rpc`."""

    _adapters: Any  # both of our worker extension, which vLLM adds
    _slot_tensors: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _use_gpu_code()
        super().__init__(*args, **kwargs)

    def describe_path(self) -> dict[str, Any]:
        """Return the classes that run, by their role."""
        scheduler = self.vllm_config.scheduler_config
        return {
            "runner": [kind.__module__ for kind in type(self.model_runner).__mro__],
            "lora": [type(each).__name__ for each in self._adapters.punica_wrapper_mapping.values()],
            "zeroer": type(self.model_runner.kv_block_zeroer).__name__,
            "scheduler": [kind.__name__ for kind in scheduler.get_scheduler_cls().__mro__],
            "async_scheduling": scheduler.async_scheduling,
            "executor": self.vllm_config.parallel_config.distributed_executor_backend,
            "layers": sorted({type(layer).__name__ for layer in self._adapters.modules.values()}),
        }

    def set_zeroing(self, enabled: bool) -> None:
        """Stop zeroing blocks of the KV cache, or zero them again."""
        zeroer = self.model_runner.kv_block_zeroer
        vars(zeroer).pop("zero_block_ids", None)
        if not enabled:
            zeroer.zero_block_ids = lambda _: None

    def fill_kv_cache(self, value: float) -> None:
        """Overwrite all blocks, as requests of a broken adapter would."""
        for blocks in self.model_runner.kv_caches:
            blocks.fill_(value)

    def dirty_blocks(self) -> int:
        """Return the number of blocks with NaN."""
        return sum(int(blocks.isnan().flatten(1).any(1).sum()) for blocks in self.model_runner.kv_caches)

    def fill_slots(self, value: float) -> None:
        """Overwrite the weights of all slots."""
        for tensor in self._slot_tensors():
            tensor.fill_(value)

    def set_logits_chunk(self, rows: int) -> None:
        """Compute the logits of prompts in pieces of this number of rows; vLLM's are of 1,024."""
        prompt_logprob.CHUNK_SIZE = rows


@cache
def _use_gpu_code() -> None:
    vars(lora_loading)["PIN_MEMORY"] = True  # pinning itself is replaced by vLLM's worker for CPUs
    # The only kernel that calls CUDA's library of device functions, which has no interpreter.
    sampler.get_num_nans = lambda logits: logits.isnan().sum(-1, dtype=torch.int32)
    lora_kernels.load_lora_op_config = interpreted_tiles


def _speed_up_interpreter() -> None:
    """Halve the time of a kernel: replace the functions of Triton's language once, and leave out checks of integers.

    The interpreter does the former at each call, and undoes it; the latter is for debugging, and off on a GPU.
    """
    patch_language, patched = interpreter._patch_lang, SimpleNamespace(restore=lambda: None)

    @cache
    def patch_language_once(kernel: Any) -> Any:
        patch_language(kernel)
        return patched

    interpreter._patch_lang = patch_language_once
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def interpreted_tiles(op_type: str, add_inputs: bool | None) -> dict[str, Any]:
    """Return the same sizes for all shapes, in the form of vLLM's files: nested by five sizes of the shapes."""
    of_shape = {"1": {"1": {"1": TILES[op_type] | LAUNCH}}}
    return {"1": {str(slices): of_shape for slices in range(1, 5)}}


_speed_up_interpreter()
