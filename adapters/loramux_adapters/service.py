"""The adapters of one base: every operation on them, for the HTTP API, the command line and fine-tuning jobs."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from loramux_adapters.background_tasks import BackgroundTasks
from loramux_adapters.effect_policy import EffectChecker
from loramux_adapters.errors import AdapterError, AdapterExists, AdapterNotFound, VersionNotFound
from loramux_adapters.intake.archive import VersionArchive
from loramux_adapters.intake.ingest import AdapterIngest
from loramux_adapters.intake.sources import ReportProgress, Source
from loramux_adapters.models import (
    DEFAULT_PROJECT,
    AdapterName,
    EffectCheck,
    VersionId,
    VersionState,
    parse_adapter_name,
)
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord, Registry, VersionRecord, alias_exists
from loramux_adapters.registry.transaction import AliasTargets
from loramux_adapters.registry_sync import RegistrySync
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import AdapterResolver
from loramux_adapters.version_adder import EnsureRank, VersionAdder, any_rank

_CLOSE_TIMEOUT_SECONDS = 1.0


def ignore_progress(_: str) -> None:
    """Discard a progress message."""


@dataclass
class AdapterService:
    """Adds, promotes, splits, rolls back, pins, removes and quarantines adapters.

    Disk, database, network and engine work runs in threads or in the engine; requests read the resolver meanwhile. An
    operation that has started is completed even if its caller is cancelled. All of them raise AdapterError.
    """

    ingest: AdapterIngest
    registry: Registry
    resolver: AdapterResolver
    pool: AdapterPool
    effect_checker: EffectChecker | None = None
    """None if versions are served without an effect check."""
    ensure_rank: EnsureRank = any_rank
    now: Callable[[], float] = time.time
    on_quarantine: Callable[[VersionId, str], None] = lambda _version, _reason: None
    """Called once for each version that is quarantined, with the reason."""
    check_alias_change: Callable[[AdapterName], None] = lambda _name: None
    """Called before a client changes what a name points at; raises an AdapterError to refuse it."""
    _tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    _sync: RegistrySync = field(init=False)
    _adder: VersionAdder = field(init=False)

    def __post_init__(self) -> None:
        store = self.ingest.store
        self._sync = RegistrySync(self.registry, self.resolver, self.pool, store, self._tasks, self.now)
        self._adder = VersionAdder(self.ingest, self._sync, self.effect_checker, self.ensure_rank)
        self.pool.on_corrupt_files(self.quarantine)

    async def add(
        self,
        name: AdapterName,
        source: Source,
        *,
        actor: str,
        report_progress: ReportProgress = ignore_progress,
        promote: bool = True,
        skip_existing: bool = False,
        project: str = DEFAULT_PROJECT,
    ) -> VersionRecord:
        """Add the files of `source` as a version of `name`, and point `name` at it if it is to be promoted.

        Existing content is promoted again, or checked again if it was rejected or quarantined; with `skip_existing` it
        is left as it is. A new adapter is one of `project`.

        Raises:
            AdapterExists: the name is an alias.
            AdapterRejected: the files are valid, but the effect check failed; the version is listed as rejected.
            AdapterError: any other reason.
        """
        if (target := self.resolver.own_name(name)) != name:
            raise AdapterExists(alias_exists(name, target))
        added = self._adder.add(
            name, source, actor, report_progress, promote=promote, skip_existing=skip_existing, project=project
        )
        return await self._tasks.run(added)

    async def resume_checks(self) -> None:
        """Check the versions that an earlier process or a sleeping engine left unchecked, as far as it is possible."""
        await self._adder.resume_checks()

    def get(self, name: AdapterName) -> AdapterRecord:
        """Return one adapter.

        Raises:
            AdapterNotFound: no adapter of this base has this name.
        """
        return self.resolver.require(name)

    def adapter_name(self, text: str) -> AdapterName:
        """Return the own name of the adapter that `text` names, which may be an alias.

        Raises:
            InvalidAdapterName: it is not a valid name.
            AliasTargetMissing: it is an alias, and its target is not served.
            InvalidAlias: it is an alias of the base or of one version.
        """
        return self.resolver.adapter_name(parse_adapter_name(text))

    async def effect_check(self, version: VersionId) -> EffectCheck | None:
        """Return the result of the version's last effect check, None if it was never checked."""
        return await asyncio.to_thread(self.registry.effect_check, version)

    async def open_archive(self, version: VersionId) -> tuple[VersionArchive, str]:
        """Verify a version's files, and return them as an archive to be closed, with their full SHA-256.

        Raises:
            VersionNotFound: there is no such version.
            StoreError: its files are missing, or were changed after they were accepted.
        """
        record = self.resolver.version(str(version))
        if record is None:
            raise VersionNotFound(f"{version.name} has no version {version.digest}.")
        store, manifest = self.ingest.store, record.manifest

        def verified() -> VersionArchive:
            store.verify(manifest.digest)
            return VersionArchive.open(store.path(manifest.digest), manifest)

        return await asyncio.to_thread(verified), manifest.digest

    async def audit(self, name: AdapterName | None, limit: int) -> list[AuditRecord]:
        """Return the latest changes of one adapter or of all, newest first."""
        return await asyncio.to_thread(self.registry.audit, name, limit)

    async def write_audit(self, name: AdapterName, action: str, before: object, after: object, *, actor: str) -> None:
        """Add a row to the audit log for a change that is stored elsewhere, such as the start of an experiment.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        by = self._sync.changed_by(actor)
        await self._tasks.run(asyncio.to_thread(self.registry.write_audit, name, by, action, before, after))

    async def set_alias(
        self, name: AdapterName, targets: AliasTargets, *, actor: str, checked: bool = True
    ) -> AdapterRecord:
        """Point the bare name at `targets`: one version, or several with their weights.

        Requests that have been resolved already keep their version. Without `checked`, `check_alias_change` is not
        asked: for the experiment that promotes its candidate.

        Raises:
            AdapterNotFound, VersionNotFound, VersionNotReady: a target does not exist, or can't be served.
            PinLimit: the adapter is pinned, and all targets can't be pinned together.
            AdapterError: `check_alias_change` refuses it.
        """
        if checked:
            self.check_alias_change(name)
        await self._sync.set_alias(name, targets, actor)
        return self.get(name)

    async def roll_back(self, name: AdapterName, *, actor: str) -> AdapterRecord:
        """Point the bare name at its previous targets.

        Raises:
            AdapterNotFound: no adapter has this name.
            NothingToRollBack: it has no previous targets that can still be served.
            AdapterError: `check_alias_change` refuses it.
        """
        self.check_alias_change(name)
        await self._sync.apply(name, lambda: self.registry.roll_back(name, self._sync.changed_by(actor)))
        return self.get(name)

    async def pin(self, name: AdapterName, *, pinned: bool, actor: str) -> AdapterRecord:
        """Pin the bare name's targets in the engine, or unpin them.

        Raises:
            AdapterNotFound: no adapter has this name.
            PinLimit: too many versions would be pinned.
        """

        def change() -> None:
            if pinned:
                self.pool.check_pins(self._sync.pinned_versions({name: self.get(name).targets}))
            self.registry.set_pinned(name, self._sync.changed_by(actor), pinned=pinned)

        await self._sync.apply(name, change)
        return self.get(name)

    async def set_project(self, name: AdapterName, project: str, *, actor: str) -> AdapterRecord:
        """Give the adapter to a project.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        await self._sync.apply(name, lambda: self.registry.set_project(name, project, self._sync.changed_by(actor)))
        return self.get(name)

    async def prefetch(self, name: str) -> list[VersionId]:
        """Load the targets of a bare name, or one NAME@DIGEST, into the engine's host memory; returns the versions.

        `name` may be an alias.

        Raises:
            AdapterNotFound: `name` resolves to nothing.
            AdapterError: a version can't be loaded now; see `AdapterPool.prefetch`.
        """
        record = self.resolver.get(self.resolver.own_name(name))
        resolved = self.resolver.resolve(name)
        if resolved is None:
            raise AdapterNotFound(f"No adapter is registered as {name[:200]}.")
        wanted = [VersionId(record.name, digest) for digest in record.targets] if record else [resolved]
        for version in wanted:
            await self.pool.prefetch(version)
        return wanted

    async def remove(self, name: AdapterName, *, actor: str) -> AdapterRecord:
        """Remove the adapter and return its last record; requests in flight finish.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        await self.flush_use_counts()
        record = await self._sync.record(name)
        await self._sync.apply(name, lambda: self.registry.remove(name, self._sync.changed_by(actor)))
        return record

    async def remove_version(self, version: VersionId, *, actor: str) -> AdapterRecord:
        """Remove one version, and return the adapter's record without it.

        Raises:
            AdapterNotFound, VersionNotFound: there is no such version.
            VersionInUse: the bare name points at it.
        """
        await self.flush_use_counts()
        record = await self._sync.record(version.name)
        by = self._sync.changed_by(actor)
        await self._sync.apply(version.name, lambda: self.registry.remove_version(version, by))
        return replace(record, versions=[known for known in record.versions if known.id != version])

    def quarantine(self, version: VersionId, reason: str) -> None:
        """Take a ready version out of service: immediately for requests, shortly afterwards in the registry."""
        record = self.resolver.version(str(version))
        if record is not None and record.state is VersionState.READY:
            self._sync.quarantine(version, reason)
            self.on_quarantine(version, reason)

    async def flush_use_counts(self) -> None:
        """Add the use counts since the last flush to the registry.

        Raises:
            StoreError: the registry can't be written; the counts are kept.
        """
        await self._tasks.run(self._sync.save_use_counts())

    async def warm_up(self) -> None:
        """Load pinned adapters and then the most used ones, without evicting any."""
        self.pool.pin(self._sync.pinned_versions())
        used = [v for record in self.resolver.adapters() for v in record.versions if v.weight and v.uses]
        for version in sorted(used, key=lambda version: -version.uses)[: self.pool.capacity]:
            if not self.pool.has_free_capacity:
                return
            with suppress(AdapterError):  # the pool backs it off, and requests for it get the error
                await self.pool.prefetch(version.id)

    async def wait_until_idle(self) -> None:
        """Wait until the operations that have started are completed."""
        await self._tasks.wait()

    async def close(self, timeout: float = _CLOSE_TIMEOUT_SECONDS) -> None:  # noqa: ASYNC109 - the rest is cancelled
        """Complete the operations that end within `timeout` seconds, cancel the others, and write the use counts."""
        self._adder.stop_downloads()
        await self._tasks.close(timeout)
        await self._sync.save_use_counts()
