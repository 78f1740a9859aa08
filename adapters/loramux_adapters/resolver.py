"""Resolves adapter names to versions from memory, so that requests never wait for the database."""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from loramux_adapters.errors import (
    AdapterNotFound,
    AliasTargetMissing,
    InvalidAlias,
    VersionNotFound,
    VersionNotReady,
    VersionQuarantined,
)
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, BaseSpec, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """The versions that a bare name resolves to, and the upper bound of each one's share of [0, 1)."""

    versions: tuple[VersionId, ...]
    upper_bounds: tuple[float, ...]

    @classmethod
    def of(cls, record: AdapterRecord) -> "TrafficSplit":
        """Order the shares from the oldest version to the newest, so that a growing canary keeps its users."""
        targets = [version for version in record.versions if version.weight]
        total = sum(version.weight for version in targets)
        upper_bounds = accumulate(version.weight / total for version in targets)
        return cls(tuple(version.id for version in targets), tuple(upper_bounds))

    def pick(self, split_key: str | None) -> VersionId:
        """Pick a version by the shares: always the same one for the same `split_key`, at random for None."""
        if len(self.versions) == 1:
            return self.versions[0]
        point = random.random() if split_key is None else _unit_hash(f"{self.versions[0].name}\0{split_key}")  # noqa: S311
        return self.versions[min(bisect_right(self.upper_bounds, point), len(self.versions) - 1)]


def _unit_hash(text: str) -> float:
    """Hash `text` uniformly to [0, 1)."""
    return int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8]) / 2**64


class AdapterResolver:
    """The registered adapters of `base`, by bare name and by version; RegistrySync updates it after every change.

    Adapters that were accepted for another base stay in the registry and are left out here: equal shapes do not mean
    equal weights. Names come from clients unchecked; they are only looked up.
    """

    def __init__(self, records: Iterable[AdapterRecord], store: VersionStore, base: BaseSpec) -> None:
        self._store = store
        self._base = base
        self._adapters: dict[str, AdapterRecord] = {}
        self._splits: dict[str, TrafficSplit] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._unsaved_uses: Counter[VersionId] = Counter()
        self._aliases: dict[str, str] = {}
        for record in records:
            self.put(record)

    def set_aliases(self, targets: Mapping[str, str]) -> None:
        """Replace the model aliases: the target of each is the base's name, a bare name or NAME@DIGEST."""
        self._aliases = dict(targets)

    def own_name(self, model: str) -> str:
        """Return the name by which a model is known here: for an alias its target, else `model` itself.

        ALIAS@DIGEST is a version of the adapter that the alias stands for. A model's own name precedes an equal alias.
        """
        name, at, digest = model.partition("@")
        target = self._aliases.get(name)
        if target is None or self.is_served(model):
            return model
        return f"{target}@{digest}" if at else target

    def is_base(self, model: str) -> bool:
        """Whether `model` is the base's name or an alias of it."""
        return self.own_name(model) == self._base.name

    def is_served(self, model: str) -> bool:
        """Whether `model` is the base, an adapter or a version by its own name, whatever its state."""
        return model == self._base.name or model in self._splits or model in self._versions

    def adapter_name(self, name: AdapterName) -> AdapterName:
        """Return the adapter's own name for `name`, which may be an alias.

        Raises:
            AliasTargetMissing: it is an alias, and its target is not served.
            InvalidAlias: it is an alias of the base or of one version.
        """
        own = self.own_name(name)
        if own == name or own in self._splits:
            return AdapterName(own)
        self._check_target(name, own)
        kind = "the base" if own == self._base.name else "one version"
        raise InvalidAlias(f"{name} is an alias of {own}, {kind}; expected the name of an adapter, or an alias of one.")

    def _check_target(self, alias: str, target: str) -> None:
        if not self.is_served(target):
            raise AliasTargetMissing(
                f"The model `{alias}` is an alias of `{target}`, which is not served here: it was removed, or belongs "
                f"to another base. Point the alias at another model (`loramux alias set {alias} MODEL`)."
            )

    def put(self, record: AdapterRecord) -> None:
        """Add or replace an adapter; a request sees either its old record or its new one, never a mixture."""
        versions = tuple(version for version in record.versions if version.manifest.base.matches(self._base))
        if not versions:
            self.remove(record.name)
            return
        before = self._adapters.get(record.name)
        record = replace(record, versions=versions)
        self._versions.update({str(version.id): version for version in versions})
        self._adapters[record.name], self._splits[record.name] = record, TrafficSplit.of(record)
        for removed in {v.id for v in before.versions} - {v.id for v in versions} if before else ():
            self._forget(removed)

    def remove(self, name: AdapterName) -> None:
        """Remove an adapter with all its versions."""
        record = self._adapters.pop(name, None)
        self._splits.pop(name, None)
        for version in record.versions if record else ():
            self._forget(version.id)

    def _forget(self, version: VersionId) -> None:
        self._versions.pop(str(version), None)
        self._unsaved_uses.pop(version, None)

    def count_use(self, version: VersionId) -> None:
        """Count a request that the version served; the records that this resolver returns include it immediately."""
        if str(version) in self._versions:
            self._unsaved_uses[version] += 1

    def unsaved_uses(self) -> dict[VersionId, int]:
        """Return the requests of each version that the registry does not have yet."""
        return dict(self._unsaved_uses)

    def uses_saved(self, uses: Mapping[VersionId, int]) -> None:
        """Move these uses into the records, after they were added to the registry."""
        for version, count in uses.items():
            record = self._adapters.get(version.name)
            if record is not None and version in self._unsaved_uses:
                self.put(_with_uses(record, {version: count}))
                self._unsaved_uses[version] -= count
        self._unsaved_uses += Counter()  # drops those that are 0

    def quarantine(self, version: VersionId, reason: str) -> None:
        """Take a version out of service, before the registry is updated."""
        record = self._adapters.get(version.name)
        if record is not None:
            state = VersionState.QUARANTINED
            versions = tuple(
                replace(known, state=state, reason=reason, weight=0.0) if known.id == version else known
                for known in record.versions
            )
            self.put(replace(record, versions=versions))

    def adapters(self) -> list[AdapterRecord]:
        """Return all adapters, sorted by name."""
        return [_with_uses(self._adapters[name], self._unsaved_uses) for name in sorted(self._adapters)]

    def project_of(self, name: str) -> str | None:
        """Return the project of the adapter of this bare name; None if there is none."""
        record = self._adapters.get(name)
        return None if record is None else record.project

    def pinned(self) -> list[AdapterRecord]:
        """Return the pinned adapters."""
        return [adapter for adapter in self._adapters.values() if adapter.pinned]

    def is_pinned(self, name: str) -> bool:
        """Whether `name` is the bare name of a pinned adapter."""
        record = self._adapters.get(name)
        return record is not None and record.pinned

    def get(self, name: str) -> AdapterRecord | None:
        """Return the adapter of this bare name."""
        record = self._adapters.get(name)
        return None if record is None else _with_uses(record, self._unsaved_uses)

    def require(self, name: str) -> AdapterRecord:
        """Return the adapter of this bare name.

        Raises:
            AdapterNotFound: no adapter of this base has this name.
        """
        record = self.get(name)
        if record is None:
            raise AdapterNotFound(f"No adapter is registered as {name[:200]}.")
        return record

    def targets(self, name: str) -> tuple[VersionId, ...]:
        """Return the versions that this bare name resolves to; none for an unknown name."""
        split = self._splits.get(name)
        return split.versions if split else ()

    def stored_bytes(self, name: str) -> int:
        """Return the size of the weights of all versions of an adapter in bytes; 0 for an unknown name."""
        record = self._adapters.get(name)
        return sum(version.manifest.weights_bytes for version in record.versions) if record else 0

    def version(self, name: str) -> VersionRecord | None:
        """Return the version NAME@DIGEST in any state."""
        return self._versions.get(name)

    def resolve(self, name: str, split_key: str | None = None) -> VersionId | None:
        """Return the version that serves a request for `name` (bare, NAME@DIGEST, or an alias).

        It is None for the base and for an unknown name.

        Raises:
            AliasTargetMissing: the name is an alias, and its target is not served.
            VersionQuarantined: the name is known, and its version was quarantined.
            VersionNotReady: the name is known, and no version of it is being served.
        """
        own = self.own_name(name)
        split = self._splits.get(own)
        if split is not None:
            if not split.versions:
                raise _not_ready_error(self._adapters[own].versions, name)
            return split.pick(split_key)
        version = self._versions.get(own)
        if version is None:
            if name in self._aliases:
                self._check_target(name, own)
            return None
        if version.state is not VersionState.READY:
            raise _not_ready_error([version], name)
        return version.id

    def path(self, version: VersionId) -> Path:
        """Return the folder of the version's files.

        Raises:
            KeyError: the version is not registered.
        """
        return self._store.path(self._versions[str(version)].manifest.digest)

    def verify(self, version: VersionId) -> None:
        """Read all of the version's files and compare them with what was accepted.

        Raises:
            StoreError: the files are missing or were changed.
            VersionNotFound: the version is not registered.
        """
        record = self._versions.get(str(version))
        if record is None:
            raise VersionNotFound(f"{version} was removed in the meantime.")
        self._store.verify(record.manifest.digest)


def _with_uses(record: AdapterRecord, uses: Mapping[VersionId, int]) -> AdapterRecord:
    """Return the record with these uses added to those of its versions."""
    if not any(version.id in uses for version in record.versions):
        return record
    versions = tuple(replace(version, uses=version.uses + uses.get(version.id, 0)) for version in record.versions)
    return replace(record, versions=versions)


def _not_ready_error(versions: Iterable[VersionRecord], name: str) -> VersionNotReady:
    states = {version.state for version in versions}
    if VersionState.QUARANTINED in states:
        return VersionQuarantined(f"{name} was taken out of service; its owner can promote or roll back a version.")
    if VersionState.READY in states:
        return VersionNotReady(f"{name} points at no version yet; promote one.")
    return VersionNotReady(f"{name} is not being served: it is {', '.join(sorted(states))}.")
