"""What every name means now, from memory: requests never wait for the database."""

import random
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from loramux_adapters.errors import VersionNotFound, VersionNotReady, VersionQuarantined
from loramux_adapters.intake.store import Store
from loramux_adapters.models import AdapterName, BaseSpec, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class Split:
    """The versions that a bare name leads to, and where each one's share of [0, 1) ends."""

    versions: tuple[VersionId, ...]
    ends: tuple[float, ...]

    @classmethod
    def of(cls, record: AdapterRecord) -> "Split":
        """Lay the shares end to end, the oldest version first: who is in a canary stays in it while it grows."""
        targets = [version for version in record.versions if version.weight]
        total = sum(version.weight for version in targets)
        ends = accumulate(version.weight / total for version in targets)
        return cls(tuple(version.id for version in targets), tuple(ends))

    def pick(self, sticky: str | None) -> VersionId:
        """The version for whoever is known as `sticky`: the same one every time; any, by the shares, for None."""
        if len(self.versions) == 1:
            return self.versions[0]
        point = random.random() if sticky is None else _point(f"{self.versions[0].name}\0{sticky}")  # noqa: S311
        return self.versions[min(bisect_right(self.ends, point), len(self.versions) - 1)]


def _point(text: str) -> float:
    """Where in [0, 1) `text` falls, evenly and always the same."""
    return int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8]) / 2**64


class Catalogue:
    """The registered adapters of `base`, by bare name and by version; whoever changes the registry tells it.

    What was accepted for another base stays in the registry and is not here: equal shapes do not mean equal weights.

    Names come from clients as they are: they are looked up and nothing else.
    """

    def __init__(self, records: Iterable[AdapterRecord], store: Store, base: BaseSpec) -> None:
        self._store = store
        self._base = base
        self._adapters: dict[str, AdapterRecord] = {}
        self._splits: dict[str, Split] = {}
        self._versions: dict[str, VersionRecord] = {}
        for record in records:
            self.put(record)

    def put(self, record: AdapterRecord) -> None:
        """Add an adapter, or replace what was known of it; requests see all of it as before, or all as after."""
        versions = tuple(version for version in record.versions if version.manifest.base == self._base)
        if not versions:
            self.drop(record.name)
            return
        before = self._adapters.get(record.name)
        record = replace(record, versions=versions)
        self._versions.update({str(version.id): version for version in versions})
        self._adapters[record.name], self._splits[record.name] = record, Split.of(record)
        for gone in {v.id for v in before.versions} - {v.id for v in versions} if before else ():
            del self._versions[str(gone)]

    def drop(self, name: AdapterName) -> None:
        """Forget an adapter; its name and its versions resolve to nothing from now on."""
        record = self._adapters.pop(name, None)
        self._splits.pop(name, None)
        for version in record.versions if record else ():
            self._versions.pop(str(version.id), None)

    def withdraw(self, version: VersionId, reason: str) -> None:
        """Take a version out of service now, as the registry will learn in a moment."""
        record = self._adapters.get(version.name)
        if record is not None:
            state = VersionState.QUARANTINED
            versions = tuple(
                replace(known, state=state, reason=reason, weight=0.0) if known.id == version else known
                for known in record.versions
            )
            self.put(replace(record, versions=versions))

    def adapters(self) -> list[AdapterRecord]:
        """All adapters, by name."""
        return [self._adapters[name] for name in sorted(self._adapters)]

    def pinned(self) -> list[AdapterRecord]:
        """The adapters that stay in the engine."""
        return [adapter for adapter in self._adapters.values() if adapter.pinned]

    def is_pinned(self, name: str) -> bool:
        """Whether there is an adapter of this bare name that stays in the engine."""
        record = self._adapters.get(name)
        return record is not None and record.pinned

    def get(self, name: str) -> AdapterRecord | None:
        """The adapter of this bare name."""
        return self._adapters.get(name)

    def stored_bytes(self, name: str) -> int:
        """What the weights of all versions of an adapter take; 0 if there is no such name."""
        record = self._adapters.get(name)
        return sum(version.manifest.weights_bytes for version in record.versions) if record else 0

    def version(self, name: str) -> VersionRecord | None:
        """The version NAME@DIGEST, whatever its state."""
        return self._versions.get(name)

    def resolve(self, name: str, sticky: str | None = None) -> VersionId | None:
        """The version that a request for `name` (bare, or NAME@DIGEST) runs on; None if there is no such name.

        Raises VersionQuarantined or VersionNotReady if there is, and it does not serve.
        """
        split = self._splits.get(name)
        if split is not None:
            if not split.versions:
                raise self._why_not(self._adapters[name].versions, name)
            return split.pick(sticky)
        version = self._versions.get(name)
        if version is None:
            return None
        if version.state is not VersionState.READY:
            raise self._why_not([version], name)
        return version.id

    def path(self, version: VersionId) -> Path:
        """The folder of the version's files; KeyError if it is not registered."""
        return self._store.path(self._versions[str(version)].manifest.digest)

    def verify(self, version: VersionId) -> None:
        """Read all of the version's files; raises StoreError unless they are what was accepted, VersionNotFound."""
        known = self._versions.get(str(version))
        if known is None:
            raise VersionNotFound(f"{version} was removed meanwhile.")
        self._store.verify(known.manifest.digest)

    def _why_not(self, versions: Iterable[VersionRecord], name: str) -> VersionNotReady:
        states = {version.state for version in versions}
        if VersionState.QUARANTINED in states:
            return VersionQuarantined(f"{name} was taken out of service; its owner can promote or roll back a version.")
        if VersionState.READY in states:
            return VersionNotReady(f"{name} leads to no version yet; promote one.")
        return VersionNotReady(f"{name} does not serve: it is {', '.join(sorted(states))}.")
