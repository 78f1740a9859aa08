"""Loads adapters in the worker without stopping the engine.

vLLM's own `add_lora` reads and merges an adapter between two steps, which pauses every stream. Here a thread of the
worker prepares the adapter; only registering it, and copying it into a slot layer by layer, happen between steps.
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar

from torch import Tensor, float16
from torch import set_num_threads as torch_threads  # bound now, because vLLM's CPU worker replaces torch's later
from vllm.lora.request import LoRARequest
from vllm.utils.torch_utils import PIN_MEMORY

from loramux_server.engine.throttle import throttled


def _prepare_thread() -> None:
    """Allow the loading thread all cores of the parent process, and only one OpenMP thread.

    It would inherit the one core that the model's thread is bound to; the parent process has the user's CPU affinity.
    More OpenMP threads would be bound to the model's cores again, and this thread with them.
    """
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    torch_threads(1)


MAX_FILL_BYTES = 32 << 20
"""Copied to slots between two steps: at most 2 ms of a PCIe link with 24 GB/s, the slowest of recent GPUs."""


class BackgroundLoadingMixin:
    """Methods of vLLM's worker, each called between two steps; `number` is the adapter's `lora_int_id`.

    Call `start_load`, then `is_prepared` until it returns True, then `commit_load`, then `fill_slot` until it returns
    True. `cancel_load` aborts at any point.
    """

    _thread: ClassVar = ThreadPoolExecutor(1, "load-adapter", _prepare_thread)
    _loading: ClassVar[dict[int, "Future[Any]"]] = {}
    _filling: ClassVar[dict[int, Iterator[int]]] = {}

    @property
    def _adapters(self) -> Any:
        """vLLM's LoRAModelManager."""
        return self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]

    def start_load(self, name: str, number: int, path: str, *, throttle: bool, seconds: float) -> bool:
        """Start to read and merge the adapter in the folder `path`, throttled if the model is running.

        Returns the result of `is_prepared`.

        Raises:
            Exception: any error of vLLM.
        """
        self._loading[number] = self._thread.submit(self._prepare, LoRARequest(name, number, path), throttle=throttle)
        return self.is_prepared(number, seconds)

    def is_prepared(self, number: int, seconds: float) -> bool:
        """Wait up to `seconds`; returns whether the adapter is ready for `commit_load`.

        Raises:
            Exception: any error of vLLM; the load is removed.
        """
        load = self._loading[number]
        wait([load], timeout=seconds)
        if not load.done():
            return False
        if load.exception():
            del self._loading[number]
        load.result()
        return True

    def commit_load(self, number: int, seconds: float) -> bool:
        """Register a prepared adapter in host memory, and start to fill its slot; returns as `fill_slot`."""
        self._adapters._registered_adapters[number] = self._loading.pop(number).result()
        self._filling[number] = self._copy_to_slot(number)
        return self.fill_slot(number, seconds)

    def fill_slot(self, number: int, seconds: float) -> bool:
        """Copy layers into the adapter's slot for up to `seconds`; returns whether it is complete.

        On a GPU, copies only begin here, and the next step waits for them: so their bytes are limited, too.
        """
        until, copied = time.perf_counter() + seconds, 0
        for size in self._filling.get(number, ()):
            copied += size
            if copied >= MAX_FILL_BYTES or time.perf_counter() > until:
                return False
        self._filling.pop(number, None)
        return True

    def cancel_load(self, number: int) -> None:
        """Cancel a load in any state, and remove the adapter."""
        self._loading.pop(number, None)
        self._filling.pop(number, None)
        self._adapters.remove_adapter(number)

    def adapters_in_slots(self) -> list[int]:
        """Return the ids of the adapters in slots."""
        return [number for number in self._adapters.lora_index_to_id if number is not None]

    def _prepare(self, request: LoRARequest, *, throttle: bool) -> Any:
        with throttled(enabled=throttle):
            adapter = self.model_runner.lora_manager._load_adapter(request)  # type: ignore[attr-defined]
            self._adapters._create_merged_loras_inplace(adapter)
            if PIN_MEMORY:
                pin(adapter)
            # The values in the files are finite, but some may overflow float16. Checking the extremes finds that in a
            # tenth of the time that checking each value takes.
            halves = (tensor for tensor in _tensors(adapter) if tensor.dtype == float16)
            if not all(math.isfinite(extreme) for tensor in halves for extreme in tensor.aminmax()):
                raise ValueError(f"{request.lora_name} has NaN or infinite values in the engine's float16")
        return adapter

    def _copy_to_slot(self, number: int) -> Iterator[int]:
        """Copy the adapter into a slot, yielding each layer's bytes after it, if a slot is free or idle.

        This is an optimization: vLLM fills slots by itself in the step that needs one, and may reassign this slot.
        """
        adapters, slot = self._adapters, self._free_slot()
        if slot is None:
            return
        adapters.lora_index_to_id[slot] = number
        adapters._active_adapters[number] = None
        for name, module in adapters.modules.items():
            if adapters.lora_index_to_id[slot] != number:
                return
            if weights := adapters._get_lora_layer_weights(adapters._registered_adapters[number], name):
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            else:
                module.reset_lora(slot)
            yield sum(tensor.nbytes for tensor in _matrices(weights)) if weights else 0

    def _free_slot(self) -> int | None:
        """Return a free slot, evicting an idle adapter if necessary; None if all are in use."""
        adapters = self._adapters
        if None not in adapters.lora_index_to_id:
            in_use = set(adapters._last_mapping.prompt_mapping if adapters._last_mapping else ())
            idle = next((number for number in adapters._active_adapters.order if number not in in_use), None)
            if idle is None:
                return None
            adapters.deactivate_adapter(idle)
        slot: int = adapters.lora_index_to_id.index(None)
        return slot


def pin(adapter: Any) -> None:
    """Pin the memory of all matrices: vLLM 0.32 pins none if the first module is packed, as in adapters of q and v.

    A copy from memory that is not pinned waits for the running step.
    """
    for layer in adapter.loras.values():
        layer.lora_a, layer.lora_b = _pinned(layer.lora_a), _pinned(layer.lora_b)


def _pinned(part: Any) -> Any:
    if isinstance(part, list):
        return [_pinned(tensor) for tensor in part]
    return part if part is None or part.is_pinned() else part.pin_memory()


def _tensors(adapter: Any) -> Iterator[Tensor]:
    """Yield all A and B tensors of an adapter; packed layers hold lists of tensors or None."""
    for layer in adapter.loras.values():
        yield from _matrices(layer)


def _matrices(layer: Any) -> Iterator[Tensor]:
    for part in (layer.lora_a, layer.lora_b):
        yield from (tensor for tensor in (part if isinstance(part, list) else [part]) if tensor is not None)
