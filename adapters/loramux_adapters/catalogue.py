"""What every name means now, from memory: requests never wait for the database."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .records import AdapterName, BaseSpec, VersionId
from .registry import AdapterRecord, VersionRecord
from .store import Store


class Catalogue:
    """The registered adapters of `base`, by bare name and by version; whoever changes the registry tells it.

    What was accepted for another base stays in the registry and is not here: equal shapes do not mean equal weights.

    Names come from clients as they are: they are looked up and nothing else.
    """

    def __init__(self, records: Iterable[AdapterRecord], store: Store, base: BaseSpec) -> None:
        self._store = store
        self._base = base
        self._adapters: dict[str, AdapterRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        for record in records:
            self.put(record)

    def put(self, record: AdapterRecord) -> None:
        """Add an adapter, or replace what was known of it."""
        self.drop(record.name)
        versions = tuple(version for version in record.versions if version.manifest.base == self._base)
        if versions:
            self._adapters[record.name] = replace(record, versions=versions)
            self._versions.update({str(version.id): version for version in versions})

    def drop(self, name: AdapterName) -> None:
        """Forget an adapter; its name and its versions resolve to nothing from now on."""
        record = self._adapters.pop(name, None)
        for version in record.versions if record else ():
            self._versions.pop(str(version.id), None)

    def adapters(self) -> list[AdapterRecord]:
        """All adapters, by name."""
        return [self._adapters[name] for name in sorted(self._adapters)]

    def get(self, name: str) -> AdapterRecord | None:
        """The adapter of this bare name."""
        return self._adapters.get(name)

    def version(self, name: str) -> VersionRecord | None:
        """The version that NAME@DIGEST or an adapter's bare name leads to."""
        adapter = self._adapters.get(name)
        if adapter is None:
            return self._versions.get(name)
        return next((version for version in adapter.versions if version.weight), None)

    def resolve(self, name: str) -> VersionId | None:
        """The id of the version that a request for `name` runs on."""
        version = self.version(name)
        return version.id if version else None

    def path(self, version: VersionId) -> Path:
        """The folder of the version's files; KeyError if it is not registered."""
        return self._store.path(self._versions[str(version)].manifest.digest)
