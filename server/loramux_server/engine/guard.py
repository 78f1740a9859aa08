"""What is done about an adapter that computes values which are no numbers."""

import asyncio
from collections.abc import Callable
from typing import Any

from loramux_adapters.pool import AdapterPool
from loramux_adapters.records import VersionId

_POLL_SECONDS = 0.05


class Guard:
    """Takes a corrupted version out of service, and cleans what it left in the KV cache.

    `quarantine` gets the version and the reason, and must keep new requests from it at once.
    """

    def __init__(self, engine: Any, pool: AdapterPool, quarantine: Callable[[VersionId, str], None]) -> None:
        self._engine, self._pool, self._quarantine = engine, pool, quarantine
        self._cleaning: set[asyncio.Task[None]] = set()

    def corrupted(self, version: VersionId | None) -> None:
        """A request's logits held values that are no numbers; None is the base, which only suffers from others."""
        if version is not None:
            self._quarantine(version, "it computed values that are no numbers")
        task = asyncio.create_task(self._clean(version))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _clean(self, version: VersionId | None) -> None:
        """Clean at once, and again when the last request of the version is over, for it wrote more until then."""
        await self.scrub()
        while version is not None and self._pool.is_resident(version):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(_POLL_SECONDS)
        await self.scrub()
        # Prefixes of the version may be cached, and would count again if the same weights got another chance. While
        # requests run they can only be forgotten together with theirs, which are then computed again.
        if not await self._engine.reset_prefix_cache():
            await self._engine.reset_prefix_cache(reset_running_requests=True)

    async def scrub(self) -> None:
        """Clean the cache of all values that are no numbers."""
        await self._engine.collective_rpc("scrub_cache", None, (), {})
