"""Loading an adapter while the engine goes on: what the worker does of it.

vLLM's own `add_lora` reads and merges an adapter between two steps, and every stream stands still meanwhile. Here a
thread of the worker prepares it; what is left to do between steps is to enter it, and to copy it into a slot, a part at
a time.
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar

from torch import Tensor, float16
from torch import set_num_threads as torch_threads  # from here, because vLLM's CPU worker replaces torch's later
from vllm.lora.request import LoRARequest

from loramux_server.engine.worker.throttle import paced


def _unbind() -> None:
    """Let the loading thread take what the model leaves: it would inherit the core that the model's thread is bound to.

    The parent process is not bound, and is where the user said which cores are ours. And no helpers: OpenMP would bind
    them, and this thread with them, to the model's cores again.
    """
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    torch_threads(1)


class BackgroundLoading:
    """Methods for vLLM's worker, each called between two steps; adapters go by their number in vLLM.

    A load is begun, asked after until it is prepared, and then dropped, or entered and its slot filled to the end.
    """

    _thread: ClassVar = ThreadPoolExecutor(1, "load-adapter", _unbind)
    _prepared: ClassVar[dict[int, "Future[Any]"]] = {}
    _filling: ClassVar[dict[int, Iterator[None]]] = {}

    @property
    def _adapters(self) -> Any:
        """vLLM's manager of the adapters in this worker's memory."""
        return self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]

    def begin_load(self, name: str, number: int, path: str, *, gently: bool, seconds: float) -> bool:
        """Begin to read and merge the adapter in the folder `path`, `gently` if there are steps to disturb.

        Returns what `is_prepared` does.
        """
        self._prepared[number] = self._thread.submit(self._prepare, LoRARequest(name, number, path), gently=gently)
        return self.is_prepared(number, seconds)

    def is_prepared(self, number: int, seconds: float) -> bool:
        """Whether the adapter can be entered, now or `seconds` later; raises what vLLM raised, and forgets it then."""
        load = self._prepared[number]
        wait([load], timeout=seconds)
        if not load.done():
            return False
        if load.exception():
            del self._prepared[number]
        load.result()
        return True

    def enter_load(self, number: int, seconds: float) -> bool:
        """Make a prepared adapter one of vLLM's, in host memory, and begin to fill its slot; as `fill_slot`."""
        self._adapters._registered_adapters[number] = self._prepared.pop(number).result()
        self._filling[number] = self._fill(number)
        return self.fill_slot(number, seconds)

    def fill_slot(self, number: int, seconds: float) -> bool:
        """Go on filling the adapter's slot for so many seconds; returns whether that is done."""
        until = time.perf_counter() + seconds
        for _ in self._filling.get(number, ()):
            if time.perf_counter() > until:
                return False
        self._filling.pop(number, None)
        return True

    def drop_load(self, number: int) -> None:
        """Forget a load that is not wanted any more, however far it got."""
        self._prepared.pop(number, None)
        self._filling.pop(number, None)
        self._adapters.remove_adapter(number)

    def pin_adapter(self, number: int, *, pinned: bool) -> None:
        """Keep the adapter in its slot, or let vLLM give the slot to another one again."""
        if pinned:
            self._adapters.pin_adapter(number)
            return
        for cache in (self._adapters._registered_adapters, self._adapters._active_adapters):
            cache.pinned_items.discard(number)

    def adapters_in_slots(self) -> list[int]:
        """The adapters that hold a slot now."""
        return [number for number in self._adapters.lora_index_to_id if number is not None]

    def _prepare(self, request: LoRARequest, *, gently: bool) -> Any:
        with paced(gently=gently):
            adapter = self.model_runner.lora_manager._load_adapter(request)  # type: ignore[attr-defined]
            self._adapters._create_merged_loras_inplace(adapter)
            # The files' values were found finite; float16 alone has too small a range for some of them. The extremes
            # say it as well as looking at each value does, and in a tenth of the time.
            halves = (tensor for tensor in _tensors(adapter) if tensor.dtype == float16)
            if not all(math.isfinite(extreme) for tensor in halves for extreme in tensor.aminmax()):
                raise ValueError(f"{request.lora_name} holds values that are no numbers in the engine's precision")
        return adapter

    def _fill(self, number: int) -> Iterator[None]:
        """Copy the adapter into a slot, a layer at a time, if one can be had.

        vLLM gives out slots itself, in the step that needs one, so it can do without this, and may take the slot away.
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
            yield

    def _free_slot(self) -> int | None:
        """A slot that nothing in the last step used, taken from its adapter if need be; None if there is none."""
        adapters = self._adapters
        if None not in adapters.lora_index_to_id:
            last = adapters._last_mapping.prompt_mapping if adapters._last_mapping else ()
            kept = {*last, *adapters._active_adapters.pinned_items}
            idle = next((number for number in adapters._active_adapters.order if number not in kept), None)
            if idle is None:
                return None
            adapters.deactivate_adapter(idle)
        slot: int = adapters.lora_index_to_id.index(None)
        return slot


def _tensors(adapter: Any) -> Iterator[Tensor]:
    """All A and B of an adapter as vLLM merged it: a layer that packs several has a list of each, with gaps."""
    for layer in adapter.loras.values():
        for part in (layer.lora_a, layer.lora_b):
            yield from (tensor for tensor in (part if isinstance(part, list) else [part]) if tensor is not None)
