"""Adding a version: stage its files, accept them, check its effect on the engine, promote it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from loramux_adapters.daemon_thread import run_in_daemon_thread
from loramux_adapters.effect_policy import EffectChecker, rejection_reason
from loramux_adapters.errors import (
    AdapterError,
    AdapterLoadingFailed,
    AdapterRejected,
    SourceUnavailable,
    VersionNotFound,
)
from loramux_adapters.intake.ingest import AdapterIngest, StagedAdapter
from loramux_adapters.intake.sources import ReportProgress, Source
from loramux_adapters.models import DEFAULT_PROJECT, AdapterName, EffectCheck, VersionId, VersionState
from loramux_adapters.registry.registry import VersionRecord
from loramux_adapters.registry_sync import SERVER, RegistrySync

EnsureRank = Callable[[int], Awaitable[None]]
"""Lets the engine serve adapters of a rank, or raises an AdapterError."""


async def any_rank(_: int) -> None:
    """Accept every rank that validation accepted."""


@dataclass
class VersionAdder:
    """Takes versions from a source to READY or REJECTED; without an `effect_checker`, accepted files are READY."""

    ingest: AdapterIngest
    sync: RegistrySync
    effect_checker: EffectChecker | None
    ensure_rank: EnsureRank
    _is_stopped: bool = False

    async def add(
        self,
        name: AdapterName,
        source: Source,
        actor: str,
        report_progress: ReportProgress,
        *,
        promote: bool,
        skip_existing: bool,
        project: str = DEFAULT_PROJECT,
    ) -> VersionRecord:
        """Add the files of `source` as a version of `name`; see `AdapterService.add`.

        Raises:
            AdapterRejected: the files are valid, but the effect check failed; the version is listed as rejected.
            AdapterError: any other reason.
        """
        staged = await self._stage(name, source, report_progress)
        try:
            existing = self.sync.resolver.version(str(staged.manifest.version_id(name)))
            if existing is not None and skip_existing:
                return existing
            await self.ensure_rank(staged.manifest.rank)
            added = await self._accept(name, staged, actor, promote=promote, project=project)
        finally:
            await asyncio.to_thread(staged.discard)
        if self._record(added).is_checking:
            report_progress(f"checking the effect of {added} on the engine")
            await self._check(added, actor)
        elif promote:
            await self.sync.set_alias(name, {added.digest: 1.0}, actor)
        return self._ready_record(added)

    async def resume_checks(self) -> None:
        """Check the versions that an earlier process left unchecked; those that can't be checked now stay unchecked."""
        versions = [version for record in self.sync.resolver.adapters() for version in record.versions]
        for version in versions:
            if version.is_checking:
                with suppress(AdapterError):
                    await self.sync.tasks.run(self._check(version.id, SERVER))

    def stop_downloads(self) -> None:
        """End running downloads with SourceUnavailable the next time they report progress."""
        self._is_stopped = True

    async def _stage(self, name: AdapterName, source: Source, report_progress: ReportProgress) -> StagedAdapter:
        def report_unless_stopped(line: str) -> None:
            if self._is_stopped:  # a thread can't be cancelled from outside
                raise SourceUnavailable("The server is shutting down.")
            report_progress(line)

        return await run_in_daemon_thread(lambda: self.ingest.stage(name, source, report_unless_stopped), name="fetch")

    async def _accept(
        self, name: AdapterName, staged: StagedAdapter, actor: str, *, promote: bool, project: str
    ) -> VersionId:
        async with self.sync.exclusive():
            by = self.sync.changed_by(actor)
            added = await asyncio.to_thread(self.ingest.accept, name, staged, by, promote=promote, project=project)
            await self.sync.refresh(name)
        return added

    async def _check(self, version: VersionId, actor: str) -> None:
        """Check a version's effect and record the result; a version that can't be checked now stays in CHECKING."""
        self.sync.pool.reset_backoff(version)
        check, reason = await self._check_effect(version)
        state = VersionState.REJECTED if reason else VersionState.READY

        def record_result() -> None:
            # If the same content was added twice at the same time, the first result holds.
            if self._record(version).is_checking:
                by = self.sync.changed_by(actor)
                self.sync.registry.set_state(version, state, by, reason=reason, effect_check=check)

        await self.sync.apply(version.name, record_result)
        if self._record(version).state is VersionState.REJECTED:
            self.sync.pool.discard(version)

    async def _check_effect(self, version: VersionId) -> tuple[EffectCheck | None, str | None]:
        """Return the check's result, and the reason to reject the version, if there is one."""
        if self.effect_checker is None:
            return None, None
        try:
            check = await self.effect_checker.check_effect(version)
        except AdapterLoadingFailed:
            return None, "the engine could not load it"
        return check, rejection_reason(check)

    def _ready_record(self, version: VersionId) -> VersionRecord:
        record = self._record(version)
        if record.state is VersionState.REJECTED:
            raise AdapterRejected(f"{version} was rejected: {record.reason}.")
        return record

    def _record(self, version: VersionId) -> VersionRecord:
        record = self.sync.resolver.version(str(version))
        if record is None:
            raise VersionNotFound(f"{version} was removed in the meantime.")
        return record
