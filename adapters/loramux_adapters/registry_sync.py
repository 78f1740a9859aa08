"""Changes to the registry, one at a time, after which resolver, pool and store are brought in line with it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from loramux_adapters.background_tasks import BackgroundTasks
from loramux_adapters.errors import AdapterNotFound, StoreError, VersionNotFound, VersionNotReady
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, Registry, VersionRecord
from loramux_adapters.registry.transaction import AliasTargets, ChangedBy
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import AdapterResolver

SERVER = "server"
"""The actor of changes that no client requested."""


@dataclass
class RegistrySync:
    """Owns the lock under which the registry changes; resolver, pool and store are updated before its release.

    Changes run in `tasks`: once started, a change is completed even if the request that asked for it is cancelled.
    """

    registry: Registry
    resolver: AdapterResolver
    pool: AdapterPool
    store: VersionStore
    tasks: BackgroundTasks
    now: Callable[[], float] = time.time
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unwritten_quarantines: dict[VersionId, str] = field(default_factory=dict)
    """The versions that are quarantined in memory and not in the registry yet, with the reasons."""

    def changed_by(self, actor: str) -> ChangedBy:
        """Return `actor` and the current time, for the audit log."""
        return ChangedBy(actor, self.now())

    async def apply(self, name: AdapterName, change: Callable[[], None]) -> None:
        """Run `change`, which changes the adapter `name` in the registry, in a thread.

        Raises:
            AdapterError: the error of `change`; the registry is unchanged.
        """
        await self.tasks.run(self._apply(name, change))

    async def set_alias(self, name: AdapterName, targets: AliasTargets, actor: str) -> None:
        """Point the bare name at `targets`; see `AdapterService.set_alias`."""

        def change() -> None:
            if self.resolver.require(name).pinned:
                self.pool.check_pins(self.pinned_versions({name: targets}))
            action = "promote" if len(targets) == 1 else "split"
            self.registry.set_alias(name, targets, self.changed_by(actor), action)

        await self.apply(name, change)

    async def _apply(self, name: AdapterName, change: Callable[[], None]) -> None:
        async with self.exclusive():
            before = await self._versions(name)
            await asyncio.to_thread(change)
            await self.refresh(name)
            for version in before.keys() - (await self._versions(name)).keys():
                self.pool.discard(version)
                await asyncio.to_thread(self._remove_unused_content, before[version].manifest.digest)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock, after writing the quarantines that are only in memory: no change may overwrite them."""
        async with self._lock:
            for version, reason in list(self._unwritten_quarantines.items()):
                with suppress(AdapterNotFound, VersionNotFound, VersionNotReady):
                    by, state = self.changed_by(SERVER), VersionState.QUARANTINED
                    await asyncio.to_thread(self.registry.set_state, version, state, by, reason=reason)
                del self._unwritten_quarantines[version]
                await self.refresh(version.name)
            yield

    async def refresh(self, name: AdapterName) -> None:
        """Update resolver and pins from the registry's record of the adapter."""
        try:
            self.resolver.put(await self.record(name))
        except AdapterNotFound:
            self.resolver.remove(name)
        for version, reason in self._unwritten_quarantines.items():  # quarantined while the registry was read
            self.resolver.quarantine(version, reason)
        self.pool.pin(self.pinned_versions())

    async def save_use_counts(self) -> None:
        """Add the use counts since the last call to the registry.

        Raises:
            StoreError: the registry can't be written; the counts are kept.
        """
        async with self.exclusive():  # no record is read between the two steps, which would count uses twice
            uses = self.resolver.unsaved_uses()
            await asyncio.to_thread(self.registry.add_use_counts, uses)
            self.resolver.uses_saved(uses)

    def quarantine(self, version: VersionId, reason: str) -> None:
        """Quarantine a version: immediately for requests, shortly afterwards in the registry."""
        self._unwritten_quarantines[version] = reason
        self.resolver.quarantine(version, reason)
        self.pool.discard(version)
        self.tasks.start(self._write_quarantines())

    def pinned_versions(self, changed: Mapping[AdapterName, AliasTargets] | None = None) -> set[VersionId]:
        """Return the versions to pin, if the adapters in `changed` are pinned with these targets as well."""
        pinned: dict[AdapterName, AliasTargets] = {record.name: record.targets for record in self.resolver.pinned()}
        pinned.update(changed or {})
        return {VersionId(name, digest) for name, targets in pinned.items() for digest in targets}

    async def record(self, name: AdapterName) -> AdapterRecord:
        """Read the adapter's record from the registry.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        return await asyncio.to_thread(self.registry.get, name)

    async def _write_quarantines(self) -> None:
        # If the registry can't be written now, the quarantine holds in memory, and the next change writes it.
        with suppress(StoreError):
            async with self.exclusive():
                pass

    async def _versions(self, name: AdapterName) -> dict[VersionId, VersionRecord]:
        try:
            return {version.id: version for version in (await self.record(name)).versions}
        except AdapterNotFound:
            return {}

    def _remove_unused_content(self, digest: str) -> None:
        """Remove stored files that no version refers to: other adapters may have the same content."""
        with suppress(StoreError):  # leftover files are harmless
            if not self.registry.has_content(digest):
                self.store.remove(digest)
