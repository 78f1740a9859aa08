from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from loramux_adapters.errors import AdapterError, AdapterExists, InvalidAdapter, PathNotAllowed, StoreError
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.ingest import Intake
from loramux_adapters.intake.sources import Source, Tell
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import Store
from loramux_adapters.models import AdapterName, VersionId, VersionState, parse_adapter_name
from loramux_adapters.registry.registry import Registry
from loramux_adapters.registry.transaction import Change
from tests.helpers.adapter_files import BASE, lora_config, lora_tensors, write_adapter

TONE = parse_adapter_name("tone")


@dataclass(frozen=True)
class ScriptedSource:
    """A source that does to the staging folder what it is told."""

    act: Callable[[Path], object]
    origin: dict[str, str] = field(default_factory=lambda: {"type": "scripted"})

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        self.act(into)


def take_in(intake: Intake, source: Source, now: float = 1.0, name: AdapterName = TONE) -> VersionId:
    """Stage and accept, as the library does."""
    staged = intake.stage(name, source, print)
    try:
        return intake.accept(name, staged, Change("test", now))
    finally:
        staged.discard()


@pytest.fixture
def intake(tmp_path: Path, registry: Registry) -> Intake:
    return Intake(Store(tmp_path / "store"), registry, BASE, max_rank=8)


def contents(tmp_path: Path) -> list[Path]:
    return [path for kind in ("versions", "staging") for path in (tmp_path / "store" / kind).iterdir()]


def test_an_accepted_folder_is_stored_registered_and_still_to_be_proven(intake: Intake, tmp_path: Path) -> None:
    source = FolderSource(write_adapter(tmp_path / "roots" / "tone"), [tmp_path / "roots"])
    version = take_in(intake, source, now=5.0)
    (stored,) = intake.registry.get(TONE).versions
    assert (stored.id, stored.state, stored.weight) == (version, VersionState.PROVING, 0.0)
    assert stored.created_at == 5.0
    assert stored.source == {"type": "folder", "path": str(tmp_path / "roots" / "tone")}
    assert intake.store.verify(stored.manifest.digest) == stored.manifest


def test_an_adapter_of_another_base_is_accepted_with_a_warning_or_refused(intake: Intake, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "tone", lora_config(base_model_name_or_path="org/other"))
    source = FolderSource(folder, [tmp_path])
    take_in(intake, source)
    (stored,) = intake.registry.get(TONE).versions
    assert "org/other" in stored.manifest.warnings[0]
    with pytest.raises(InvalidAdapter, match="org/other"):
        take_in(replace(intake, refuse_other_base=True), source)


def test_the_source_may_change_or_vanish_afterwards(intake: Intake, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "tone")
    source = FolderSource(folder, [tmp_path])
    first = take_in(intake, source, now=1.0)
    write_adapter(folder, tensors=lora_tensors(seed=7))
    second = take_in(intake, source, now=2.0)
    assert first != second
    for version in intake.registry.get(TONE).versions:
        intake.store.verify(version.manifest.digest)


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
def test_what_is_refused_leaves_no_trace(
    intake: Intake, tmp_path: Path, source: ScriptedSource | FolderSource, error: type[AdapterError]
) -> None:
    with pytest.raises(error):
        take_in(intake, source, now=1.0)
    assert not intake.registry.snapshot()
    assert not contents(tmp_path)


def test_a_refused_version_leaves_the_adapter_as_it_was(intake: Intake) -> None:
    take_in(intake, ScriptedSource(write_adapter), now=1.0)
    before = intake.registry.snapshot()
    with pytest.raises(InvalidAdapter):
        take_in(intake, ScriptedSource(lambda into: write_adapter(into, lora_config(bias="all"))), now=2.0)
    assert intake.registry.snapshot() == before


def test_the_base_s_name_can_t_be_taken(intake: Intake, tmp_path: Path) -> None:
    with pytest.raises(AdapterExists):
        take_in(intake, ScriptedSource(write_adapter), name=parse_adapter_name(BASE.name))
    assert not contents(tmp_path)


def test_what_was_staged_and_is_given_up_leaves_no_trace(intake: Intake, tmp_path: Path) -> None:
    staged = intake.stage(TONE, ScriptedSource(write_adapter), print)
    assert len(contents(tmp_path)) == 1
    staged.discard()
    assert not contents(tmp_path)


def test_one_content_under_two_names_is_stored_once(intake: Intake, tmp_path: Path) -> None:
    take_in(intake, ScriptedSource(write_adapter), now=1.0)
    take_in(intake, ScriptedSource(write_adapter), name=parse_adapter_name("other"))
    assert len(contents(tmp_path)) == 1
    assert len(intake.registry.snapshot()) == 2
