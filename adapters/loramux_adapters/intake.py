"""How a version gets in: source, staging, validation, store, registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loramux_adapters.errors import AdapterExists
from loramux_adapters.records import AdapterName, BaseSpec, VersionId
from loramux_adapters.registry import Registry
from loramux_adapters.store import Store
from loramux_adapters.validation import largest_file, validate


class Source(Protocol):
    """Where an adapter's files come from."""

    @property
    def origin(self) -> dict[str, str]:
        """What to remember of it, known once the files were fetched."""

    def fetch(self, into: Path, largest: Mapping[str, int]) -> None:
        """Copy the files named in `largest`, each of at most so many bytes, to the folder `into`."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The one way into the store and the registry, for adapters of `base` up to `max_rank`."""

    store: Store
    registry: Registry
    base: BaseSpec
    max_rank: int

    def accept(self, name: AdapterName, source: Source, now: float) -> VersionId:
        """Make what `source` holds the version that `name` points to, at the Unix time `now`; raises AdapterError.

        What fails leaves no trace, except that the store may hold a version which no adapter has: harmless, and
        reused when the same content comes again.
        """
        if name == self.base.name:
            raise AdapterExists(f"{name} is the name of the base.")
        with self.store.staging() as staged:
            source.fetch(staged, largest_file(self.base, self.max_rank))
            manifest = validate(staged, self.base, self.max_rank)
            self.store.put(staged, manifest)
        return self.registry.add_version(name, manifest, source.origin, now)
