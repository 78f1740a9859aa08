"""What the worker adds to vLLM's sleep: the host memory that it takes, and what has to be made again on waking.

Asleep, the weights are in host memory. Awake again, the KV cache has whatever its new memory contains. vLLM zeroes it
only at start, and block 0, which pads the tables of all requests, is never zeroed by `kv_zeroing`. The slots are filled
again from host memory, where every adapter stays: so nothing depends on which of vLLM's memory pools they are in.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.utils.torch_utils import PIN_MEMORY

from loramux_adapters.finetuning.recipes.memory import free_cpu_memory
from loramux_server.engine.worker.rank_growth import empty_slots

DROPPED = frozenset({"kv_cache", "workspace"})
"""vLLM's pools that are not kept during its sleep."""


class SleepMixin:
    """Methods of vLLM's worker."""

    model_runner: Any

    def backup_bytes(self) -> tuple[int, int, bool]:
        """Return the host memory that a sleep takes, what is free (bytes), and whether it is kept after waking.

        Called between two steps.
        """
        sizes = [*_pool_sizes()] if current_platform.is_cuda_alike() else []
        if PIN_MEMORY:  # torch rounds each piece up to a power of two, and keeps it; in WSL2 it is ordinary memory
            sizes = [1 << (size - 1).bit_length() for size in sizes]
        return sum(sizes), free_cpu_memory(), PIN_MEMORY

    def refresh_after_sleep(self) -> None:
        """Zero the KV cache, and empty the slots of adapters; before the first step."""
        for tensor in _tensors(self.model_runner.kv_caches):
            tensor.zero_()
        if manager := getattr(self.model_runner, "lora_manager", None):
            empty_slots(manager._adapter_manager)


def install_refresh(worker: type) -> None:
    """Make vLLM's `worker` class refresh itself when it wakes up: the engine goes on with its steps at once."""
    worker.wake_up = _with_refresh(worker.wake_up)  # type: ignore[attr-defined]


def _with_refresh(wake_up: Callable[..., None]) -> Callable[..., None]:
    @wraps(wake_up)
    def wake_up_and_refresh(self: Any, *args: Any, **kwargs: Any) -> None:
        wake_up(self, *args, **kwargs)
        self.refresh_after_sleep()

    return wake_up_and_refresh


def _pool_sizes() -> Iterator[int]:
    """Yield the size of each allocation that vLLM's sleep copies to host memory."""
    from vllm.device_allocator import get_mem_allocator_instance  # vLLM 0.26 has none

    allocator: Any = get_mem_allocator_instance()
    for data in allocator.pointer_to_data.values():
        if data.tag not in DROPPED:
            yield data.handle[1]


def _tensors(caches: Any) -> Iterator[torch.Tensor]:
    for cache in caches:
        yield from (cache,) if isinstance(cache, torch.Tensor) else _tensors(cache)
