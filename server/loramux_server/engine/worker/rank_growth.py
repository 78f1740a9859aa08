"""Raises the largest rank of adapters while the engine runs: vLLM's slots are made again, with more room.

vLLM itself chooses the rank of its slots at start. Nothing else depends on it, unless the model is compiled or its CUDA
graphs are captured: both hold on to the slots' memory.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from vllm.platforms import current_platform

from loramux_adapters.finetuning.recipes.memory import free_cpu_memory


class RankGrowthMixin:
    """Methods of vLLM's worker, each called between two steps."""

    _adapters: Any  # of BackgroundLoadingMixin
    model_runner: Any
    lora_config: Any
    parallel_config: Any

    def growth_bytes(self, rank: int) -> tuple[int, int]:
        """Return the memory that slots of `rank` need in addition, and what is free for this worker, in bytes."""
        now = sum(tensor.nbytes for tensor in self._slot_tensors())
        free: int = _free_memory(self.parallel_config.world_size)
        return now * rank // self.lora_config.max_lora_rank - now, free

    def set_max_rank(self, rank: int) -> None:
        """Make all slots again, for adapters up to `rank`; vLLM fills them with the adapters of the next steps.

        Raises:
            Exception: the memory does not suffice; call it again with the former rank.
        """
        adapters, config = self._adapters, self.lora_config
        empty_slots(adapters)
        for wrapper in adapters.punica_wrapper_mapping.values():
            getattr(wrapper, "_weight_arrays", {}).clear()  # else CpuPunicaWrapper keeps the former slots
        _clear_pointers()
        config.max_lora_rank = rank
        for module in adapters.modules.values():
            module.create_lora_weights(adapters.lora_slots, config, adapters.model.config)
            module.set_mapping(module.punica_wrapper)  # experts hand the slots on

    def _slot_tensors(self) -> Iterator[torch.Tensor]:
        for module in self._adapters.modules.values():
            for value in vars(module).values():
                tensors = value if isinstance(value, tuple | list) else (value,)
                yield from (tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor._base is None)


def empty_slots(adapters: Any) -> None:
    """Make vLLM's `LoRAModelManager` fill its slots again, with the adapters of the next steps."""
    adapters._active_adapters.clear()
    adapters.lora_index_to_id = [None] * adapters.lora_slots
    adapters._last_mapping = adapters._last_slot_layout = None


def _free_memory(workers: int) -> int:
    """Return the bytes that are free for one of `workers`: on CPUs they share the machine's memory."""
    if current_platform.is_cpu():
        return free_cpu_memory() // workers
    free: int = torch.cuda.mem_get_info()[0]
    return free


def _clear_pointers() -> None:
    """Empty the caches of the kernels for GPUs: they have the slots' strides by address, and keep some of the slots."""
    kernels = sys.modules.get("vllm.lora.ops.triton_ops.utils")
    for name in ("_LORA_A_PTR_DICT", "_LORA_B_PTR_DICT") if kernels else ():
        getattr(kernels, name).clear()
