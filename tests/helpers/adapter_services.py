"""A whole library over a folder and a database, with an engine that takes what it is told to take."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.ingest import Intake
from loramux_adapters.intake.sources import Tell
from loramux_adapters.intake.store import Store
from loramux_adapters.models import Proof, VersionId
from loramux_adapters.registry.registry import Registry
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.resolver import Catalogue
from loramux_adapters.service import Library
from loramux_server import database as db
from tests.helpers.adapter_files import BASE, lora_tensors, write_adapter
from tests.helpers.registry_records import PROOF

SILENT = PROOF.model_copy(update={"difference": 0.0})
"""What an adapter without effect shows."""


class FakeEngine:
    """Host memory for the pool, and a prover whose verdicts are set beforehand."""

    def __init__(self) -> None:
        self.loaded: set[VersionId] = set()
        self.pinned: set[VersionId] = set()
        self.verdict: Proof | Exception = PROOF
        self.proven: Counter[VersionId] = Counter()
        self.may_prove = asyncio.Event()
        self.may_prove.set()

    async def load(self, version: VersionId) -> None:
        self.loaded.add(version)

    async def unload(self, version: VersionId) -> None:
        self.loaded.discard(version)

    async def pin(self, version: VersionId, *, pinned: bool) -> None:
        (self.pinned.add if pinned else self.pinned.discard)(version)

    async def slots(self) -> Set[VersionId]:
        return self.loaded

    async def prove(self, version: VersionId) -> Proof:
        verdict = self.verdict
        self.proven[version] += 1
        await self.may_prove.wait()
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


class Unobserved:
    """A pool's observer that does not look."""

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        pass

    def evicted(self, version: VersionId, reason: str) -> None:
        pass

    def resident(self, count: int) -> None:
        pass


@dataclass(frozen=True)
class CopySource:
    """Files to be copied as they are, or what goes wrong instead."""

    folder: Path
    error: AdapterError | None = None
    origin: dict[str, str] = field(default_factory=lambda: {"type": "copy"})

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        if self.error:
            raise self.error
        for name in largest:
            shutil.copy(self.folder / name, into / name)


class Workshop:
    """Adapters to add, and a library that can be opened again and again over the same folder and database."""

    def __init__(self, root: Path, *, capacity: int = 4) -> None:
        self.root, self.capacity = root, capacity
        self.database = db.create_engine(f"sqlite:///{root / 'library.sqlite'}")
        db.upgrade(self.database)

    def source(self, seed: int) -> CopySource:
        folder = self.root / "made" / str(seed)
        return CopySource(folder if folder.exists() else write_adapter(folder, None, lora_tensors(seed=seed)))

    def open(self, *, proofs: bool = True) -> tuple[Library, FakeEngine]:
        """A library as a process finds it at its start; needs a running event loop."""
        engine, registry, store = FakeEngine(), Registry(self.database), Store(self.root / "store")
        pool = AdapterPool(engine, self.capacity, Unobserved(), slots=self.capacity)
        catalogue = Catalogue(registry.snapshot(), store, BASE)
        intake = Intake(store, registry, BASE, max_rank=8)
        library = Library(intake, registry, catalogue, pool, engine if proofs else None)
        pool.on_damage = library.quarantine
        return library, engine

    def contents(self) -> set[str]:
        """The digests of what lies in the store."""
        return {path.name for path in (self.root / "store" / "versions").iterdir()}

    def close(self) -> None:
        self.database.dispose()
