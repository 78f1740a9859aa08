"""The adapters of one base as a whole: what is registered, what of it is in memory, and the changes to both."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .catalogue import Catalogue
from .errors import AdapterNotFound
from .intake import Intake, Source
from .pool import AdapterPool
from .records import AdapterName
from .registry import AdapterRecord, Registry, VersionRecord


@dataclass
class Library:
    """Changes one thing at a time, so that the catalogue and the registry always tell the same.

    Everything slow (disk, database) runs in threads; requests read the catalogue meanwhile.
    """

    intake: Intake
    registry: Registry
    catalogue: Catalogue
    pool: AdapterPool
    now: Callable[[], float] = time.time
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, name: AdapterName, source: Source) -> VersionRecord:
        """Accept what `source` holds as the version that `name` points to from now on; raises AdapterError."""
        async with self._changing:
            added = await asyncio.to_thread(self.intake.accept, name, source, self.now())
            record = await asyncio.to_thread(self.registry.get, name)
            self.catalogue.put(record)
        return next(version for version in record.versions if version.id == added)

    def show(self, name: AdapterName) -> AdapterRecord:
        """One adapter; raises AdapterNotFound."""
        record = self.catalogue.get(name)
        if record is None:
            raise AdapterNotFound(f"No adapter is registered as {name}.")
        return record

    async def remove(self, name: AdapterName) -> AdapterRecord:
        """Forget the adapter: new requests find no such model, those in flight finish. Raises AdapterNotFound."""
        async with self._changing:
            record = await asyncio.to_thread(self.registry.get, name)
            await asyncio.to_thread(self.registry.remove, name)
            self.catalogue.drop(name)
        for version in record.versions:
            self.pool.discard(version.id)
        return record
