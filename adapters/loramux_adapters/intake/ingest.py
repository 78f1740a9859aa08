"""How a version gets in: source, staging, validation, store, registry."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from sys import maxsize
from tempfile import TemporaryDirectory

from loramux_adapters.errors import AdapterError, AdapterExists
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.sources import Source, Tell
from loramux_adapters.intake.store import Store
from loramux_adapters.intake.validation import largest_file, validate
from loramux_adapters.intake.validation.config import read_config
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.models import AdapterName, BaseSpec, Manifest, VersionId
from loramux_adapters.registry.registry import Registry
from loramux_adapters.registry.transaction import Change


@dataclass(frozen=True, slots=True)
class Staged:
    """Checked files that are not accepted yet; `discard` must be called in the end, also after they were."""

    folder: Path
    manifest: Manifest
    origin: Mapping[str, str]
    discard: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Intake:
    """The one way into the store and the registry, for adapters of `base` up to `max_rank`.

    What fails leaves no trace, except that the store may hold a version which no adapter has: harmless, reused when the
    same content comes again, and swept some day.
    """

    store: Store
    registry: Registry
    base: BaseSpec
    max_rank: int
    refuse_other_base: bool = False

    def stage(self, name: AdapterName, source: Source, tell: Tell) -> Staged:
        """Fetch and check what `source` holds; raises AdapterError."""
        if name == self.base.name:
            raise AdapterExists(f"{name} is the name of the base.")
        with ExitStack() as stack:
            folder = stack.enter_context(self.store.staging())
            source.fetch(folder, largest_file(self.base, self.max_rank), tell)
            manifest = validate(folder, self.base, self.max_rank, refuse_other_base=self.refuse_other_base)
            return Staged(folder, manifest, source.origin, stack.pop_all().close)

    def accept(self, name: AdapterName, staged: Staged, by: Change, *, promote: bool = True) -> VersionId:
        """Move checked files in as a version of `name`, which has yet to prove itself; raises AdapterError.

        With `promote` the bare name will lead to it then.
        """
        self.store.put(staged.folder, staged.manifest)
        return self.registry.add_version(name, staged.manifest, staged.origin, by, promote=promote)


def declared_rank(source: Source) -> int | None:
    """Return the rank that the config in `source` declares; None where there is none, as a later `stage` will tell."""
    with TemporaryDirectory() as folder:
        try:
            source.fetch(Path(folder), {CONFIG_FILE: MAX_CONFIG_BYTES}, lambda _: None)
            with (Path(folder) / CONFIG_FILE).open("rb") as file:
                return read_config(file, maxsize).largest_rank
        except (AdapterError, OSError):
            return None
