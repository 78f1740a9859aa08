from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from loramux_adapters.errors import AdapterError, AdapterExists, InvalidAdapter, PathNotAllowed, StoreError
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.ingest import AdapterIngest
from loramux_adapters.intake.sources import ReportProgress, Source
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, VersionId, VersionState, parse_adapter_name
from loramux_adapters.registry.registry import Registry
from loramux_adapters.registry.transaction import ChangedBy
from tests.helpers.adapter_files import BASE, lora_config, lora_tensors, write_adapter

TONE = parse_adapter_name("tone")


@dataclass(frozen=True)
class ScriptedSource:
    """A source that calls `act` with the staging folder."""

    act: Callable[[Path], object]
    origin: dict[str, str] = field(default_factory=lambda: {"type": "scripted"})

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        self.act(into)


def ingest_version(ingest: AdapterIngest, source: Source, now: float = 1.0, name: AdapterName = TONE) -> VersionId:
    """Stage and accept, as the service does."""
    staged = ingest.stage(name, source, print)
    try:
        return ingest.accept(name, staged, ChangedBy("test", now))
    finally:
        staged.discard()


@pytest.fixture
def ingest(tmp_path: Path, registry: Registry) -> AdapterIngest:
    return AdapterIngest(VersionStore(tmp_path / "store"), registry, BASE, max_rank=8)


def contents(tmp_path: Path) -> list[Path]:
    return [path for kind in ("versions", "staging") for path in (tmp_path / "store" / kind).iterdir()]


def test_an_accepted_folder_is_stored_and_awaits_its_effect_check(ingest: AdapterIngest, tmp_path: Path) -> None:
    source = FolderSource(write_adapter(tmp_path / "roots" / "tone"), [tmp_path / "roots"])
    version = ingest_version(ingest, source, now=5.0)
    (stored,) = ingest.registry.get(TONE).versions
    assert (stored.id, stored.state, stored.weight) == (version, VersionState.CHECKING, 0.0)
    assert stored.created_at == 5.0
    assert stored.source == {"type": "folder", "path": str(tmp_path / "roots" / "tone")}
    assert ingest.store.verify(stored.manifest.digest) == stored.manifest


def test_an_adapter_of_another_base_gets_a_warning_or_is_refused(ingest: AdapterIngest, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "tone", lora_config(base_model_name_or_path="org/other"))
    source = FolderSource(folder, [tmp_path])
    ingest_version(ingest, source)
    (stored,) = ingest.registry.get(TONE).versions
    assert "org/other" in stored.manifest.warnings[0]
    with pytest.raises(InvalidAdapter, match="org/other"):
        ingest_version(replace(ingest, refuse_other_base=True), source)


def test_the_source_may_change_afterwards(ingest: AdapterIngest, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "tone")
    source = FolderSource(folder, [tmp_path])
    first = ingest_version(ingest, source, now=1.0)
    write_adapter(folder, tensors=lora_tensors(seed=7))
    second = ingest_version(ingest, source, now=2.0)
    assert first != second
    for version in ingest.registry.get(TONE).versions:
        ingest.store.verify(version.manifest.digest)


def raise_disk_full(folder: Path) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (ScriptedSource(lambda into: write_adapter(into, lora_config(use_dora=True))), InvalidAdapter),
        (ScriptedSource(lambda into: write_adapter(into, lora_config(r=16), lora_tensors(rank=16))), InvalidAdapter),
        (ScriptedSource(lambda into: write_adapter(into, tensors={"a": np.ones((2, 2))})), InvalidAdapter),
        (ScriptedSource(lambda into: (write_adapter(into) / WEIGHTS_FILE).unlink()), InvalidAdapter),
        (ScriptedSource(raise_disk_full), StoreError),
        (FolderSource(Path("/etc"), []), PathNotAllowed),
    ],
)
def test_a_refused_version_leaves_no_trace(
    ingest: AdapterIngest, tmp_path: Path, source: ScriptedSource | FolderSource, error: type[AdapterError]
) -> None:
    with pytest.raises(error):
        ingest_version(ingest, source, now=1.0)
    assert not ingest.registry.snapshot()
    assert not contents(tmp_path)


def test_a_refused_version_leaves_the_adapter_as_it_was(ingest: AdapterIngest) -> None:
    ingest_version(ingest, ScriptedSource(write_adapter), now=1.0)
    before = ingest.registry.snapshot()
    with pytest.raises(InvalidAdapter):
        ingest_version(ingest, ScriptedSource(lambda into: write_adapter(into, lora_config(bias="all"))), now=2.0)
    assert ingest.registry.snapshot() == before


def test_the_base_s_name_can_t_be_used(ingest: AdapterIngest, tmp_path: Path) -> None:
    with pytest.raises(AdapterExists):
        ingest_version(ingest, ScriptedSource(write_adapter), name=parse_adapter_name(BASE.name))
    assert not contents(tmp_path)


def test_a_discarded_staging_folder_leaves_no_trace(ingest: AdapterIngest, tmp_path: Path) -> None:
    staged = ingest.stage(TONE, ScriptedSource(write_adapter), print)
    assert len(contents(tmp_path)) == 1
    staged.discard()
    assert not contents(tmp_path)


def test_one_content_under_two_names_is_stored_once(ingest: AdapterIngest, tmp_path: Path) -> None:
    ingest_version(ingest, ScriptedSource(write_adapter), now=1.0)
    ingest_version(ingest, ScriptedSource(write_adapter), name=parse_adapter_name("other"))
    assert len(contents(tmp_path)) == 1
    assert len(ingest.registry.snapshot()) == 2
