"""An adapter service over a folder and a database, with a fake engine whose effect checks are scripted."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.ingest import AdapterIngest
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import EffectCheck, VersionId
from loramux_adapters.registry.registry import Registry
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import AdapterResolver
from loramux_adapters.service import AdapterService
from tests.helpers.adapter_files import BASE, lora_tensors, write_adapter
from tests.helpers.migrated_database import migrated_database
from tests.helpers.registry_records import EFFECT

NO_EFFECT = EFFECT.model_copy(update={"difference": 0.0})
"""The result of checking an adapter without effect."""


class FakeEngine:
    """A loader for the pool, and an effect checker that returns or raises `outcome`."""

    def __init__(self) -> None:
        self.loaded: set[VersionId] = set()
        self.outcome: EffectCheck | Exception = EFFECT
        self.checks: Counter[VersionId] = Counter()
        self.may_check = asyncio.Event()
        self.may_check.set()

    async def load(self, version: VersionId) -> None:
        self.loaded.add(version)

    async def unload(self, version: VersionId) -> None:
        self.loaded.discard(version)

    async def slots(self) -> Set[VersionId]:
        return self.loaded

    async def check_effect(self, version: VersionId) -> EffectCheck:
        outcome = self.outcome
        self.checks[version] += 1
        await self.may_check.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class NullObserver:
    """A pool observer that ignores all events."""

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        pass

    def evicted(self, version: VersionId, reason: str) -> None:
        pass

    def resident(self, count: int) -> None:
        pass


@dataclass(frozen=True)
class CopySource:
    """A source that copies files, or raises `error` instead."""

    folder: Path
    error: AdapterError | None = None
    origin: dict[str, str] = field(default_factory=lambda: {"type": "copy"})

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        if self.error:
            raise self.error
        for path in self.folder.iterdir():
            if path.name in max_bytes:
                shutil.copy(path, into)


class ServiceFactory:
    """Creates sources of valid adapters, and services over one folder and database, as after a restart."""

    def __init__(self, root: Path, *, capacity: int = 4) -> None:
        self.root, self.capacity = root, capacity
        self.database = migrated_database(root / "registry.sqlite")

    def source(self, seed: int) -> CopySource:
        folder = self.root / "made" / str(seed)
        return CopySource(folder if folder.exists() else write_adapter(folder, None, lora_tensors(seed=seed)))

    def open(self, *, check_effects: bool = True) -> tuple[AdapterService, FakeEngine]:
        """Return a service in the state that a new process finds, with its engine; needs a running event loop."""
        engine, registry, store = FakeEngine(), Registry(self.database), VersionStore(self.root / "store")
        pool = AdapterPool(engine, self.capacity, NullObserver(), slots=self.capacity)
        resolver = AdapterResolver(registry.snapshot(), store, BASE.spec)
        ingest = AdapterIngest(store, registry, BASE, max_rank=8)
        return AdapterService(ingest, registry, resolver, pool, engine if check_effects else None), engine

    def contents(self) -> set[str]:
        """Return the digests of the versions in the store."""
        return {path.name for path in (self.root / "store" / "versions").iterdir()}

    def close(self) -> None:
        self.database.dispose()
