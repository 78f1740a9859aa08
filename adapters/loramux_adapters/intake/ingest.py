"""Ingests versions: source, staging, validation, store, registry."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import AdapterError, AdapterExists, InvalidAdapter
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.chat.policy import ChatPolicy
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.normalization import declared_config, normalize
from loramux_adapters.intake.sources import ReportProgress, Source
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.intake.validation import max_file_sizes, validate
from loramux_adapters.intake.validation.config import check_config, parse_config
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES
from loramux_adapters.models import DEFAULT_PROJECT, AdapterName, Manifest, VersionId
from loramux_adapters.registry.registry import Registry
from loramux_adapters.registry.transaction import ChangedBy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StagedAdapter:
    """Valid files that are not accepted yet; call `discard` in any case, also after they were accepted."""

    folder: Path
    manifest: Manifest
    origin: Mapping[str, str]
    discard: Callable[[], None]


@dataclass(frozen=True, slots=True)
class AdapterIngest:
    """Puts adapters of `base` up to `max_rank` into the store and the registry.

    A failed attempt leaves no trace, except perhaps a version in the store that no adapter refers to. It is harmless,
    and reused when the same content is added again.
    """

    store: VersionStore
    registry: Registry
    base: BaseDescription
    max_rank: int
    refuse_other_base: bool = False
    base_folder: Path | None = None
    """The base's own weights, with which copies in an adapter's files are compared."""
    chat: ChatPolicy = field(default_factory=ChatPolicy)

    @property
    def rules(self) -> tuple[object, ...]:
        """What decides besides an adapter's files whether and in which form they are accepted."""
        chat, versions = self.chat, sorted(self.base.versions.items())
        base = (self.base.spec, self.base.refusal, versions, self.base_folder)
        return *base, self.max_rank, self.refuse_other_base, chat.use, chat.base.template, chat.base.refusal

    def stage(self, name: AdapterName, source: Source, report_progress: ReportProgress) -> StagedAdapter:
        """Fetch the files of `source` into a staging folder and validate them.

        Raises:
            AdapterExists: `name` is the name of the base.
            AdapterError: the files can't be fetched, or are invalid.
        """
        if name == self.base.name:
            raise AdapterExists(f"{name} is the name of the base model: choose another name for the adapter.")
        if self.base.refusal:
            raise InvalidAdapter(self.base.refusal, where=self.base.name)
        with ExitStack() as stack, _unexpected_content():
            folder = stack.enter_context(self.store.staging())
            self._fetch(source, folder, report_progress)
            notes = [*normalize(folder, self.base, self.base_folder), *self.chat.apply(folder)]
            manifest = validate(folder, self.base, self.max_rank, refuse_other_base=self.refuse_other_base)
            manifest = manifest.model_copy(update={"warnings": (*notes, *manifest.warnings)})
            return StagedAdapter(folder, manifest, source.origin, stack.pop_all().close)

    def _fetch(self, source: Source, folder: Path, report_progress: ReportProgress) -> None:
        """Fetch the files, and check the config: what it declares explains why weights are too large."""
        limits = max_file_sizes(self.base, self.max_rank) | COMPANION_LIMITS
        try:
            source.fetch(folder, limits, report_progress)
        except InvalidAdapter:
            if (folder / CONFIG_FILE).exists():
                check_config(declared_config(folder), self.max_rank)
            raise
        check_config(declared_config(folder), self.max_rank)

    def accept(
        self,
        name: AdapterName,
        staged: StagedAdapter,
        by: ChangedBy,
        *,
        promote: bool = True,
        project: str = DEFAULT_PROJECT,
    ) -> VersionId:
        """Move staged files into the store, and register them as a version of `name` in the state CHECKING.

        With `promote`, the bare name will point at the version once it is READY. A new adapter is one of `project`.

        Raises:
            StoreError: the disk or the database failed.
            AdapterExists: a version with other content has the same short digest.
        """
        self.store.put(staged.folder, staged.manifest)
        return self.registry.add_version(name, staged.manifest, staged.origin, by, promote=promote, project=project)


def declared_rank(source: Source) -> int | None:
    """Return the rank that the config in `source` declares, None if it can't be read: `stage` will report why."""
    with TemporaryDirectory() as folder:
        try:
            source.fetch(Path(folder), {CONFIG_FILE: MAX_CONFIG_BYTES}, lambda _: None)
            with _unexpected_content():
                return parse_config(declared_config(Path(folder))).largest_rank
        except (AdapterError, OSError):
            return None


@contextmanager
def _unexpected_content() -> Iterator[None]:
    """Raise errors of our own code on content that nobody thought of as InvalidAdapter: no file may stop a server."""
    try:
        yield
    except (ValueError, ArithmeticError, LookupError, RecursionError, TypeError) as error:
        _log.exception("an adapter's files can't be understood")
        raise InvalidAdapter(f"the files can't be understood: {type(error).__name__}", where=CONFIG_FILE) from error
