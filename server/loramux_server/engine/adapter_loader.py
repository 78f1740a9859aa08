"""The pool's way into vLLM's host memory, without stopping the streams."""

import asyncio
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from loramux_adapters.models import VersionId
from loramux_server.engine.lora_directory import LoraRequests
from loramux_server.engine.worker.throttle import paced

FIRST_PAUSE = 0.03
LONGEST_PAUSE = 0.05
"""Between two questions whether a load is prepared: each keeps the engine from its next step for a moment."""
FILL_SECONDS = 0.005
"""How long streams wait at most while a part of a slot is filled."""
IDLE_SECONDS = 0.05
"""How long an engine without streams may be kept from new ones, to be done sooner."""


class EngineLoader:
    """Loads versions through the worker's own methods (see background.py); `verify` reads a version's files.

    The files are read twice, here to be checked against the digest and there to be loaded, and what was loaded is
    entered only if the check was good: weights that changed on disk never run. Both happen at the same time, unless
    there are streams, which should lose as little of the processor as possible to them.
    """

    def __init__(self, engine: Any, requests: LoraRequests, verify: Callable[[VersionId], object]) -> None:
        self._engine = engine
        self._requests = requests
        self._verify = verify
        self._thread = ThreadPoolExecutor(1, "verify-adapter")

    async def load(self, version: VersionId) -> None:
        """Bring the version into host memory and a slot; raises what `verify` or vLLM raises."""
        number = self._requests.of(version).lora_int_id
        gently = self._engine.output_processor.get_num_unfinished_requests() > 0
        try:
            await (self._read_gently(version) if gently else self._read_at_once(version))
            seconds = FILL_SECONDS if gently else IDLE_SECONDS
            filled = await self._call("enter_load", number, seconds)
            while not all(filled):
                filled = await self._call("fill_slot", number, seconds)
        except BaseException:
            await self._call("drop_load", number)
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

    async def _read_gently(self, version: VersionId) -> None:
        await self._verifying(version, gently=True)
        await self._read(version, gently=True, seconds=0.0)

    async def _read_at_once(self, version: VersionId) -> None:
        reading = asyncio.create_task(self._read(version, gently=False, seconds=IDLE_SECONDS))
        await asyncio.sleep(0)  # the worker hears of it before this process is busy, too
        verifying = self._verifying(version, gently=False)
        try:
            await reading
        finally:
            await verifying  # damaged files are a better reason than what vLLM made of them

    async def _read(self, version: VersionId, *, gently: bool, seconds: float) -> None:
        """Have it prepared; an answer comes between two steps, and waiting for it, `seconds` a time, stops them."""
        request, pause = self._requests.of(version), FIRST_PAUSE
        load = (request.lora_name, request.lora_int_id, request.lora_path)
        prepared = await self._call("begin_load", *load, gently=gently, seconds=seconds)
        while not all(prepared):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
            prepared = await self._call("is_prepared", request.lora_int_id, seconds)

    def _verifying(self, version: VersionId, *, gently: bool) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._check, version, gently)

    def _check(self, version: VersionId, gently: bool) -> None:
        with paced(gently=gently):
            self._verify(version)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        answers: list[Any] = await self._engine.collective_rpc(method, None, args, kwargs)
        return answers
