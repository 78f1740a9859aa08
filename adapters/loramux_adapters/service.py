"""The adapters of one base as a whole: everything that can be done with them."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from loramux_adapters.changes import SERVER, Changes
from loramux_adapters.effect_policy import Prover, fault
from loramux_adapters.errors import (
    AdapterError,
    AdapterLoadingFailed,
    AdapterNotFound,
    AdapterRejected,
    SourceUnavailable,
    VersionNotFound,
)
from loramux_adapters.intake.ingest import Intake
from loramux_adapters.intake.sources import Source, Tell
from loramux_adapters.models import AdapterName, Proof, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord, Registry, VersionRecord
from loramux_adapters.registry.transaction import Targets
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import Catalogue


def silent(_: str) -> None:
    """Tell nobody."""


@dataclass
class Library:
    """What operators can do. Everything slow (disk, database, network, proofs) runs in threads or in the engine.

    Requests read the catalogue meanwhile. What has begun is finished, whether or not who asked for it still waits.
    """

    intake: Intake
    registry: Registry
    catalogue: Catalogue
    pool: AdapterPool
    prover: Prover | None = None
    """None if versions serve without a proof."""
    now: Callable[[], float] = time.time
    on_quarantine: Callable[[VersionId, str], None] = lambda _version, _reason: None
    """Told of each version that is taken out of service, and why: once, however many requests found it out."""
    changes: Changes = field(init=False)
    _is_closing: bool = False

    def __post_init__(self) -> None:
        self.changes = Changes(self.registry, self.catalogue, self.pool, self.intake.store, self.now)

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
        return await self.changes.finished(self._add(name, source, actor, tell, promote=promote, renew=renew))

    async def resume(self) -> None:
        """Prove what an ended process left unproven; what can't be proven now stays so until the next time."""
        versions = [version for record in self.catalogue.adapters() for version in record.versions]
        for version in versions:
            if version.is_proving:
                with suppress(AdapterError):
                    await self.changes.finished(self._settle(version.id, SERVER))

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

        def change() -> None:
            if self.show(name).pinned:
                self.pool.check_pins(self.changes.pins({name: targets}))
            action = "promote" if len(targets) == 1 else "split"
            self.registry.set_alias(name, targets, self.changes.by(actor), action)

        await self.changes.make(name, change)
        return self.show(name)

    async def rollback(self, name: AdapterName, *, actor: str) -> AdapterRecord:
        """Let the bare name lead to what it led to before; raises AdapterNotFound, NothingToRollBack."""
        await self.changes.make(name, lambda: self.registry.roll_back(name, self.changes.by(actor)))
        return self.show(name)

    async def pin(self, name: AdapterName, *, pinned: bool, actor: str) -> AdapterRecord:
        """Keep in the engine what the bare name leads to, or let it go; raises AdapterNotFound, PinLimit."""

        def change() -> None:
            if pinned:
                self.pool.check_pins(self.changes.pins({name: self.show(name).targets}))
            self.registry.set_pinned(name, self.changes.by(actor), pinned=pinned)

        await self.changes.make(name, change)
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
        record = await self.changes.registered(name)
        await self.changes.make(name, lambda: self.registry.remove(name, self.changes.by(actor)))
        return record

    async def remove_version(self, version: VersionId, *, actor: str) -> AdapterRecord:
        """Forget one version; returns what is left. Raises AdapterNotFound, VersionNotFound, VersionInUse."""
        record = await self.changes.registered(version.name)
        await self.changes.make(version.name, lambda: self.registry.remove_version(version, self.changes.by(actor)))
        return replace(record, versions=[known for known in record.versions if known.id != version])

    def quarantine(self, version: VersionId, reason: str) -> None:
        """Take a version out of service: at once for requests, and in the registry in a moment."""
        known = self.catalogue.version(str(version))
        if known is not None and known.state is VersionState.READY:
            self.changes.withdraw(version, reason)
            self.on_quarantine(version, reason)

    async def flush_uses(self) -> None:
        """Enter in the registry what the versions served since the last time."""
        await asyncio.to_thread(self.registry.add_uses, self.pool.take_uses())

    async def warm(self) -> None:
        """Bring pinned adapters into the engine, and then the most used ones, as long as places are free."""
        self.pool.pin(self.changes.pins())
        served = [v for record in self.catalogue.adapters() for v in record.versions if v.weight and v.uses]
        for version in sorted(served, key=lambda version: -version.uses)[: self.pool.capacity]:
            if not self.pool.has_room:
                return
            try:
                await self.pool.prefetch(version.id)
            except AdapterError:
                continue  # the pool remembers it, and requests will be told

    async def close(self) -> None:
        """Finish what can be finished soon, and enter what was served; what is being fetched or proven is given up."""
        self._is_closing = True
        await self.changes.close()
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
            async with self.changes.exclusive():
                added = await asyncio.to_thread(
                    self.intake.accept, name, staged, self.changes.by(actor), promote=promote
                )
                await self.changes.follow(name)
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
                self.registry.conclude(version, state, self.changes.by(actor), reason=reason, proof=proof)

        await self.changes.make(version.name, conclude)
        if self._known(version).state is VersionState.REJECTED:
            self.pool.discard(version)

    def _known(self, version: VersionId) -> VersionRecord:
        known = self.catalogue.version(str(version))
        if known is None:
            raise VersionNotFound(f"{version} was removed meanwhile.")
        return known
