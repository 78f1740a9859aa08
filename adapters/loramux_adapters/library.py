"""The adapters of one base as a whole: what is registered, what of it is in memory, and the changes to both."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from .catalogue import Catalogue
from .errors import (
    AdapterError,
    AdapterLoadingFailed,
    AdapterNotFound,
    AdapterRejected,
    SourceUnavailable,
    StoreError,
    VersionNotFound,
    VersionNotReady,
)
from .intake import Intake
from .pool import AdapterPool
from .proof import Prover, fault
from .records import AdapterName, Proof, VersionId, VersionState
from .registry import AdapterRecord, AuditRecord, Registry, VersionRecord
from .sources import Source, Tell
from .transaction import Change, Targets

T = TypeVar("T")

_CLOSING_SECONDS = 1.0


def silent(_: str) -> None:
    """Tell nobody."""


@dataclass
class Library:
    """Changes one thing at a time, so that the catalogue and the registry always tell the same.

    Everything slow (disk, database, network, proofs) runs in threads or in the engine; requests read the catalogue
    meanwhile. A change that has begun is finished, whether or not who asked for it still waits.
    """

    intake: Intake
    registry: Registry
    catalogue: Catalogue
    pool: AdapterPool
    prover: Prover | None = None
    """None if versions serve without a proof."""
    now: Callable[[], float] = time.time
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _withdrawn: dict[VersionId, str] = field(default_factory=dict)
    """What was quarantined and is not in the registry yet, with the reasons."""
    _is_closing: bool = False

    async def add(
        self,
        name: AdapterName,
        source: Source,
        *,
        actor: str,
        tell: Tell = silent,
        promote: bool = True,
        renew: bool = True,
    ) -> VersionRecord:
        """Accept what `source` holds as a version of `name`, and let `name` lead to it unless told otherwise.

        What is registered already is left as it is unless it is to be renewed: promoted again, or given another chance.

        Raises AdapterError; AdapterRejected if the files are sound and the proof failed: the version is listed then.
        """
        return await self._finished(self._add(name, source, actor, tell, promote=promote, renew=renew))

    async def resume(self) -> None:
        """Prove what an ended process left unproven; what can't be proven now stays so until the next time."""
        versions = [version for record in self.catalogue.adapters() for version in record.versions]
        for version in versions:
            if version.is_proving:
                with suppress(AdapterError):
                    await self._finished(self._settle(version.id, "server"))

    def show(self, name: AdapterName) -> AdapterRecord:
        """One adapter; raises AdapterNotFound."""
        record = self.catalogue.get(name)
        if record is None:
            raise AdapterNotFound(f"No adapter is registered as {name}.")
        return record

    async def proof(self, version: VersionId) -> Proof | None:
        """What the version showed when it was last proven."""
        return await asyncio.to_thread(self.registry.proof, version)

    async def audit(self, name: AdapterName | None, limit: int) -> list[AuditRecord]:
        """The newest changes first, of one adapter or of all."""
        return await asyncio.to_thread(self.registry.audit, name, limit)

    async def set_alias(self, name: AdapterName, targets: Targets, *, actor: str) -> AdapterRecord:
        """Let the bare name lead to `targets`: one version, or several with their shares.

        Requests that came before run on what it led to before. Raises AdapterNotFound, VersionNotFound,
        VersionNotReady, PinLimit.
        """
        if self.show(name).pinned:
            self.pool.check_pins(self._pins({name: targets}))
        action = "promote" if len(targets) == 1 else "split"
        await self._change(name, lambda: self.registry.set_alias(name, targets, self._by(actor), action))
        return self.show(name)

    async def rollback(self, name: AdapterName, *, actor: str) -> AdapterRecord:
        """Let the bare name lead to what it led to before; raises AdapterNotFound, NothingToRollBack."""
        await self._change(name, lambda: self.registry.roll_back(name, self._by(actor)))
        return self.show(name)

    async def pin(self, name: AdapterName, *, pinned: bool, actor: str) -> AdapterRecord:
        """Keep in the engine what the bare name leads to, or let it go; raises AdapterNotFound, PinLimit."""
        if pinned:
            self.pool.check_pins(self._pins({name: self.show(name).targets}))
        await self._change(name, lambda: self.registry.set_pinned(name, self._by(actor), pinned=pinned))
        return self.show(name)

    async def prefetch(self, name: str) -> list[VersionId]:
        """Bring what NAME leads to, or NAME@DIGEST, into the engine's host memory, and wait until it is there."""
        record = self.catalogue.get(name)
        found = self.catalogue.resolve(name)
        if found is None:
            raise AdapterNotFound(f"No adapter is registered as {name[:200]}.")
        wanted = [VersionId(record.name, digest) for digest in record.targets] if record else [found]
        for version in wanted:
            await self.pool.prefetch(version)
        return wanted

    async def remove(self, name: AdapterName, *, actor: str) -> AdapterRecord:
        """Forget the adapter: new requests find no such model, those in flight finish. Raises AdapterNotFound."""
        record = await self._registered(name)
        await self._change(name, lambda: self.registry.remove(name, self._by(actor)))
        return record

    async def remove_version(self, version: VersionId, *, actor: str) -> AdapterRecord:
        """Forget one version; returns what is left. Raises AdapterNotFound, VersionNotFound, VersionInUse."""
        record = await self._registered(version.name)
        await self._change(version.name, lambda: self.registry.remove_version(version, self._by(actor)))
        return replace(record, versions=[known for known in record.versions if known.id != version])

    def quarantine(self, version: VersionId, reason: str) -> None:
        """Take a version out of service: at once for requests, and in the registry in a moment."""
        known = self.catalogue.version(str(version))
        if known is None or known.state is not VersionState.READY:
            return
        self._withdrawn[version] = reason
        self.catalogue.withdraw(version, reason)
        self.pool.discard(version)
        self._kept(asyncio.create_task(self._enter_withdrawn()))

    async def flush_uses(self) -> None:
        """Enter in the registry what the versions served since the last time."""
        await asyncio.to_thread(self.registry.add_uses, self.pool.take_uses())

    async def warm(self) -> None:
        """Bring pinned adapters into the engine, and then the most used ones, as long as places are free."""
        self.pool.pin(self._pins())
        served = [v for record in self.catalogue.adapters() for v in record.versions if v.weight and v.uses]
        for version in sorted(served, key=lambda version: -version.uses)[: self.pool.capacity]:
            if not self.pool.has_room:
                return
            try:
                await self.pool.prefetch(version.id)
            except AdapterError:
                continue  # the pool remembers it, and requests will be told

    async def settled(self) -> None:
        """Wait until what was begun is finished."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finish what can be finished soon, and enter what was served; what is being fetched or proven is given up."""
        self._is_closing = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()
        await self.flush_uses()

    async def _add(
        self, name: AdapterName, source: Source, actor: str, tell: Tell, *, promote: bool, renew: bool
    ) -> VersionRecord:
        def telling(line: str) -> None:
            if self._is_closing:  # a thread can't be cancelled, but it can be told
                raise SourceUnavailable("The server is shutting down.")
            tell(line)

        staged = await asyncio.to_thread(self.intake.stage, name, source, telling)
        try:
            known = self.catalogue.version(str(staged.manifest.version_of(name)))
            if known is not None and not renew:
                return known
            async with self._exclusive():
                added = await asyncio.to_thread(self.intake.accept, name, staged, self._by(actor), promote=promote)
                await self._reread(name)
        finally:
            await asyncio.to_thread(staged.discard)
        version = self._known(added)
        if version.state is VersionState.PROVING:
            tell(f"trying {added} on the engine")
            await self._settle(added, actor)
        elif promote:
            await self.set_alias(name, {added.digest: 1.0}, actor=actor)
        version = self._known(added)
        if version.state is VersionState.REJECTED:
            raise AdapterRejected(f"{added} was rejected: {version.reason}.")
        return version

    async def _settle(self, version: VersionId, actor: str) -> None:
        """Prove a version, and enter what came of it; one that can't be tried now stays unproven."""
        self.pool.forgive(version)
        try:
            proof = await self.prover.prove(version) if self.prover else None
            reason = fault(proof) if proof else None
        except AdapterLoadingFailed:
            proof, reason = None, "the engine could not load it"
        state = VersionState.REJECTED if reason else VersionState.READY

        def conclude() -> None:
            # Not so if the same content was added twice at once: what was concluded first holds.
            if self._known(version).is_proving:
                self.registry.conclude(version, state, self._by(actor), reason=reason, proof=proof)

        await self._change(version.name, conclude)
        if self._known(version).state is VersionState.REJECTED:
            self.pool.discard(version)

    async def _change(self, name: AdapterName, change: Callable[[], None]) -> None:
        """Make one change in the registry, and tell all who keep something of it."""
        await self._finished(self._changed(name, change))

    async def _changed(self, name: AdapterName, change: Callable[[], None]) -> None:
        async with self._exclusive():
            before = await self._versions(name)
            await asyncio.to_thread(change)
            await self._reread(name)
            after = await self._versions(name)
            for version in before.keys() - after.keys():
                self.pool.discard(version)
                await asyncio.to_thread(self._forget_content, before[version].manifest.digest)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Hold everything still for one change, after what was quarantined meanwhile is in the registry."""
        async with self._changing:
            for version, reason in list(self._withdrawn.items()):
                with suppress(AdapterNotFound, VersionNotFound, VersionNotReady):
                    by, state = self._by("server"), VersionState.QUARANTINED
                    await asyncio.to_thread(self.registry.conclude, version, state, by, reason=reason)
                del self._withdrawn[version]
                await self._reread(version.name)
            yield

    async def _enter_withdrawn(self) -> None:
        # If the registry can't be written now, memory knows it, and the next change tries again.
        with suppress(StoreError):
            async with self._exclusive():
                pass

    async def _reread(self, name: AdapterName) -> None:
        """Tell the catalogue and the pool what the registry says of the adapter now."""
        try:
            self.catalogue.put(await self._registered(name))
        except AdapterNotFound:
            self.catalogue.drop(name)
        for version, reason in self._withdrawn.items():  # quarantined while the registry was asked
            self.catalogue.withdraw(version, reason)
        self.pool.pin(self._pins())

    def _forget_content(self, digest: str) -> None:
        """Remove files that no version has any more: other adapters may have the same content."""
        with suppress(StoreError):  # they are swept at the next start
            if not self.registry.is_known(digest):
                self.intake.store.remove(digest)

    def _pins(self, changed: Mapping[AdapterName, Targets] | None = None) -> set[VersionId]:
        """What must stay in the engine, once `changed` are pinned and lead to this."""
        pinned = {record.name: record.targets for record in self.catalogue.pinned()}
        leads = {**pinned, **(changed or {})}
        return {VersionId(name, digest) for name, targets in leads.items() for digest in targets}

    async def _registered(self, name: AdapterName) -> AdapterRecord:
        return await asyncio.to_thread(self.registry.get, name)

    async def _versions(self, name: AdapterName) -> dict[VersionId, VersionRecord]:
        try:
            return {version.id: version for version in (await self._registered(name)).versions}
        except AdapterNotFound:
            return {}

    def _known(self, version: VersionId) -> VersionRecord:
        known = self.catalogue.version(str(version))
        if known is None:
            raise VersionNotFound(f"{version} was removed meanwhile.")
        return known

    def _by(self, actor: str) -> Change:
        return Change(actor, self.now())

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which goes on by itself if nobody waits any more."""
        return await asyncio.shield(self._kept(asyncio.create_task(work)))

    def _kept(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
