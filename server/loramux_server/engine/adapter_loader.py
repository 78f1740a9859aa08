"""Loads adapters into vLLM's host memory without stopping running streams."""

import asyncio
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from loramux_adapters.models import VersionId
from loramux_server.engine.admission import UseEngine
from loramux_server.engine.lora_directory import LoraRequests
from loramux_server.engine.throttle import throttled

FIRST_POLL_SECONDS = 0.03
MAX_POLL_SECONDS = 0.05
"""Pauses between polls of a load: each poll delays the engine's next step a little."""
BUSY_HOLD_SECONDS = 0.005
"""Longest delay of an engine step while streams run."""
IDLE_HOLD_SECONDS = 0.05
"""Longest delay of an engine step while none run."""


class EngineLoader:
    """A residency Loader; calls the workers' methods of `worker.lora_loading` by `collective_rpc`.

    The files are read twice: here by `verify`, which compares their digest, and in the workers. A prepared adapter is
    committed only if `verify` succeeded, so weights that changed on disk never run. Both reads run at the same time if
    the engine is idle; while streams run, they are sequential and throttled, to leave the CPU to the model.

    The engine can't sleep in the middle of a load, and nothing is loaded while it is asleep: see `use`.
    """

    def __init__(
        self,
        engine: Any,
        requests: LoraRequests,
        verify: Callable[[VersionId], object],
        use: UseEngine = nullcontext,
    ) -> None:
        self._engine = engine
        self._use = use
        self._requests = requests
        self._verify = verify
        self._thread = ThreadPoolExecutor(1, "verify-adapter")

    async def load(self, version: VersionId) -> None:
        """Load the version into host memory and, if one is idle, a slot.

        Raises:
            StoreError: `verify` found that the files are not what was accepted.
            EngineAsleep: the engine is asleep.
            Exception: any error of vLLM.
        """
        with self._use():
            await self._load(version)

    async def _load(self, version: VersionId) -> None:
        number = self._requests.of(version).lora_int_id
        throttle = self._engine.output_processor.get_num_unfinished_requests() > 0
        try:
            await (self._verify_then_prepare(version) if throttle else self._verify_and_prepare(version))
            seconds = BUSY_HOLD_SECONDS if throttle else IDLE_HOLD_SECONDS
            filled = await self._call("commit_load", number, seconds)
            while not all(filled):
                filled = await self._call("fill_slot", number, seconds)
        except BaseException:
            await self._call("cancel_load", number)
            raise

    async def unload(self, version: VersionId) -> None:
        """Remove the version from host memory and its slot."""
        await self._engine.remove_lora(self._requests.of(version).lora_int_id)

    async def slots(self) -> Set[VersionId]:
        """Return the versions that occupy a slot now."""
        (numbers, *_) = await self._call("adapters_in_slots")
        return self._requests.versions(numbers)

    async def _verify_then_prepare(self, version: VersionId) -> None:
        await self._verify_in_thread(version, throttle=True)
        await self._prepare(version, throttle=True, seconds=0.0)

    async def _verify_and_prepare(self, version: VersionId) -> None:
        reading = asyncio.create_task(self._prepare(version, throttle=False, seconds=IDLE_HOLD_SECONDS))
        await asyncio.sleep(0)  # sends the request to the workers before the file check starts
        verifying = self._verify_in_thread(version, throttle=False)
        try:
            await reading
        finally:
            await verifying  # the error of a corrupt file is more useful than vLLM's

    async def _prepare(self, version: VersionId, *, throttle: bool, seconds: float) -> None:
        """Start the load and poll until all workers have prepared it; each poll may delay a step by `seconds`."""
        request, pause = self._requests.of(version), FIRST_POLL_SECONDS
        load = (request.lora_name, request.lora_int_id, request.lora_path)
        prepared = await self._call("start_load", *load, throttle=throttle, seconds=seconds)
        while not all(prepared):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_POLL_SECONDS)
            prepared = await self._call("is_prepared", request.lora_int_id, seconds)

    def _verify_in_thread(self, version: VersionId, *, throttle: bool) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._verify_throttled, version, throttle)

    def _verify_throttled(self, version: VersionId, throttle: bool) -> None:
        with throttled(enabled=throttle):
            self._verify(version)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        results: list[Any] = await self._engine.collective_rpc(method, None, args, kwargs)
        return results
