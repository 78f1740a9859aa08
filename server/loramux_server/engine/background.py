"""Loading an adapter while the engine goes on: what the worker does of it.

vLLM's own `add_lora` reads and merges an adapter between two steps, and every stream stands still meanwhile. Here a
thread of the worker prepares it; what is left to do between two steps is to enter it, and to copy it into a slot.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import torch
from vllm.lora.request import LoRARequest

NICENESS = 10


def _stand_aside() -> None:
    """Let the loading thread take what the model leaves: it would inherit the core that the model's thread is bound to.

    The parent process is not bound, and is where the user said which cores are ours.
    """
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    torch.set_num_threads(1)


class BackgroundLoading:
    """Methods for vLLM's worker, each called between two steps; adapters go by their number in vLLM.

    A load is begun, asked after until it is prepared, and then entered or dropped.
    """

    _thread: ClassVar = ThreadPoolExecutor(1, "load-adapter", _stand_aside)
    _prepared: ClassVar[dict[int, "Future[Any]"]] = {}

    @property
    def _adapters(self) -> Any:
        """vLLM's manager of the adapters in this worker's memory."""
        return self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]

    def begin_load(self, name: str, number: int, path: str) -> None:
        """Begin to read and merge the adapter in the folder `path`."""
        self._prepared[number] = self._thread.submit(self._prepare, LoRARequest(name, number, path))

    def is_prepared(self, number: int) -> bool:
        """Whether the adapter can be entered; raises what vLLM raised, and forgets the load then."""
        load = self._prepared[number]
        if not load.done():
            return False
        if load.exception():
            del self._prepared[number]
        load.result()
        return True

    def enter_load(self, number: int) -> None:
        """Make a prepared adapter one of vLLM's, in host memory and in a slot."""
        self._adapters._registered_adapters[number] = self._prepared.pop(number).result()
        self._adapters.activate_adapter(number)

    def drop_load(self, number: int) -> None:
        """Forget a load that is not wanted any more, prepared or not."""
        self._prepared.pop(number, None)

    def pin_adapter(self, number: int, *, pinned: bool) -> None:
        """Keep the adapter in its slot, or let vLLM give the slot to another one again."""
        if pinned:
            self._adapters.pin_adapter(number)
            return
        for cache in (self._adapters._registered_adapters, self._adapters._active_adapters):
            cache._unpin(number)

    def adapters_in_slots(self) -> list[int]:
        """The adapters that hold a slot now."""
        return [number for number in self._adapters.lora_index_to_id if number is not None]

    def _prepare(self, request: LoRARequest) -> Any:
        adapter = self.model_runner.lora_manager._load_adapter(request)  # type: ignore[attr-defined]
        self._adapters._create_merged_loras_inplace(adapter)
        return adapter
