"""The pool's way into vLLM's host memory, without stopping the streams."""

import asyncio
import os
import threading
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from loramux_adapters.records import VersionId
from loramux_server.engine.directory import LoraRequests

NICENESS = 10
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.02


def _stand_aside() -> None:
    """Leave the cores to the model, which streams wait for, where they are few."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class EngineLoader:
    """Loads versions through the worker's own methods (see background.py); `verify` reads a version's files.

    The files are read twice at the same time, here to be checked against the digest and there to be loaded, and what
    was loaded is entered only if the check was good: weights that changed on disk never run.
    """

    def __init__(self, engine: Any, requests: LoraRequests, verify: Callable[[VersionId], object]) -> None:
        self._engine = engine
        self._requests = requests
        self._verify = verify
        self._thread = ThreadPoolExecutor(1, "verify-adapter", _stand_aside)

    async def load(self, version: VersionId) -> None:
        """Bring the version into host memory and a slot; raises what `verify` or vLLM raises."""
        request = self._requests.of(version)
        verifying = asyncio.get_running_loop().run_in_executor(self._thread, self._verify, version)
        try:
            await self._call("begin_load", request.lora_name, request.lora_int_id, request.lora_path)
            await self._until_prepared(request.lora_int_id)
            await verifying
            await self._call("enter_load", request.lora_int_id)
            while not all(await self._call("fill_slot", request.lora_int_id)):
                pass
        except BaseException:
            await asyncio.gather(verifying, return_exceptions=True)
            await self._call("drop_load", request.lora_int_id)
            if not verifying.cancelled():
                verifying.result()  # damaged files are the better reason, if that is what it was
            raise

    async def unload(self, version: VersionId) -> None:
        """Free the version's host memory and slot."""
        await self._engine.remove_lora(self._requests.of(version).lora_int_id)

    async def pin(self, version: VersionId, *, pinned: bool) -> None:
        """Keep the version in its slot, or let it go again."""
        await self._call("pin_adapter", self._requests.of(version).lora_int_id, pinned=pinned)

    async def slots(self) -> Set[VersionId]:
        """The versions that hold a slot now."""
        (numbers, *_) = await self._call("adapters_in_slots")
        return self._requests.named(numbers)

    async def _until_prepared(self, number: int) -> None:
        """Ask again and again: an answer comes between two steps, so waiting for it would stop the engine."""
        pause = FIRST_PAUSE
        while not all(await self._call("is_prepared", number)):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        answers: list[Any] = await self._engine.collective_rpc(method, None, args, kwargs)
        return answers
