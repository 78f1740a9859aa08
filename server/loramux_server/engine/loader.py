"""The pool's way into vLLM's host memory."""

from typing import Any

from loramux_adapters.records import VersionId

from .directory import LoraRequests


class EngineLoader:
    """Loads and unloads versions through vLLM's own `add_lora` and `remove_lora`."""

    def __init__(self, engine: Any, requests: LoraRequests) -> None:
        self._engine = engine
        self._requests = requests

    async def load(self, version: VersionId) -> None:
        """Read the version into host memory and a slot; raises what vLLM raises."""
        await self._engine.add_lora(self._requests.of(version))

    async def unload(self, version: VersionId) -> None:
        """Free the version's host memory and slot."""
        await self._engine.remove_lora(self._requests.of(version).lora_int_id)
