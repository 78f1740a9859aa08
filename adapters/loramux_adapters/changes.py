"""Changes to what is registered, one at a time, and everything that follows from them in memory and on disk."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loramux_adapters.errors import AdapterNotFound, StoreError, VersionNotFound, VersionNotReady
from loramux_adapters.intake.store import Store
from loramux_adapters.models import AdapterName, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, Registry, VersionRecord
from loramux_adapters.registry.transaction import Change, Targets
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import Catalogue

T = TypeVar("T")

SERVER = "server"
"""The actor of what nobody asked for."""
_CLOSING_SECONDS = 1.0


@dataclass
class Changes:
    """Holds the lock under which the registry changes; catalogue, pool and store follow it before it is released.

    A change that has begun is finished, whether or not who asked for it still waits.
    """

    registry: Registry
    catalogue: Catalogue
    pool: AdapterPool
    store: Store
    now: Callable[[], float] = time.time
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _withdrawn: dict[VersionId, str] = field(default_factory=dict)
    """What was quarantined and is not in the registry yet, with the reasons."""

    def by(self, actor: str) -> Change:
        """Who makes a change, now."""
        return Change(actor, self.now())

    async def make(self, name: AdapterName, change: Callable[[], None]) -> None:
        """Run `change`, which changes the adapter `name` in the registry, in a thread; raises what it raises."""
        await self.finished(self._made(name, change))

    async def _made(self, name: AdapterName, change: Callable[[], None]) -> None:
        async with self.exclusive():
            before = await self._versions(name)
            await asyncio.to_thread(change)
            await self.follow(name)
            for version in before.keys() - (await self._versions(name)).keys():
                self.pool.discard(version)
                await asyncio.to_thread(self._forget_content, before[version].manifest.digest)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock, after what was quarantined meanwhile is in the registry: no change builds on what was."""
        async with self._lock:
            for version, reason in list(self._withdrawn.items()):
                with suppress(AdapterNotFound, VersionNotFound, VersionNotReady):
                    by, state = self.by(SERVER), VersionState.QUARANTINED
                    await asyncio.to_thread(self.registry.conclude, version, state, by, reason=reason)
                del self._withdrawn[version]
                await self.follow(version.name)
            yield

    async def follow(self, name: AdapterName) -> None:
        """Tell the catalogue and the pool what the registry says of the adapter now."""
        try:
            self.catalogue.put(await self.registered(name))
        except AdapterNotFound:
            self.catalogue.drop(name)
        for version, reason in self._withdrawn.items():  # quarantined while the registry was asked
            self.catalogue.withdraw(version, reason)
        self.pool.pin(self.pins())

    def withdraw(self, version: VersionId, reason: str) -> None:
        """Quarantine a version: at once for requests, and in the registry in a moment."""
        self._withdrawn[version] = reason
        self.catalogue.withdraw(version, reason)
        self.pool.discard(version)
        self._kept(self._enter_withdrawn())

    def pins(self, changed: Mapping[AdapterName, Targets] | None = None) -> set[VersionId]:
        """What must stay in the engine, once `changed` are pinned and lead to this."""
        pinned = {record.name: record.targets for record in self.catalogue.pinned()}
        leads = {**pinned, **(changed or {})}
        return {VersionId(name, digest) for name, targets in leads.items() for digest in targets}

    async def registered(self, name: AdapterName) -> AdapterRecord:
        """What the registry says of the adapter; raises AdapterNotFound."""
        return await asyncio.to_thread(self.registry.get, name)

    async def finished(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which goes on by itself if nobody waits any more."""
        return await asyncio.shield(self._kept(work))

    async def settled(self) -> None:
        """Wait until what was begun is finished."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finish what can be finished soon, and give up the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()

    async def _enter_withdrawn(self) -> None:
        # If the registry can't be written now, memory knows it, and the next change tries again.
        with suppress(StoreError):
            async with self.exclusive():
                pass

    async def _versions(self, name: AdapterName) -> dict[VersionId, VersionRecord]:
        try:
            return {version.id: version for version in (await self.registered(name)).versions}
        except AdapterNotFound:
            return {}

    def _forget_content(self, digest: str) -> None:
        """Remove files that no version has any more: other adapters may have the same content."""
        with suppress(StoreError):  # what stays is harmless
            if not self.registry.is_known(digest):
                self.store.remove(digest)

    def _kept(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
