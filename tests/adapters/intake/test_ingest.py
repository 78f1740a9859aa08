import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loramux_adapters.errors import AdapterError, AdapterExists, InvalidAdapter, PathNotAllowed, StoreError
from loramux_adapters.intake import ingest as ingest_module
from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.intake.ingest import AdapterIngest, declared_rank
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


def unprefixed(into: Path) -> None:
    write_adapter(into, tensors={name.removeprefix("base_model.model."): t for name, t in lora_tensors().items()})


def test_what_was_changed_is_noted_in_the_manifest_and_the_store_has_peft_s_form(ingest: AdapterIngest) -> None:
    """A12: names without prefix."""
    ingest_version(ingest, ScriptedSource(unprefixed))
    (stored,) = ingest.registry.get(TONE).versions
    assert any("were renamed as PEFT names them" in warning for warning in stored.manifest.warnings)
    folder = ingest.store.path(stored.manifest.digest)
    assert load_file(folder / WEIGHTS_FILE).keys() == lora_tensors().keys()
    assert {path.name for path in folder.iterdir()} == {*ADAPTER_FILES, "manifest.json"}


def test_the_same_adapter_in_two_forms_is_one_version(ingest: AdapterIngest, tmp_path: Path) -> None:
    """A12: equal content has one digest."""

    def as_by_peft(into: Path) -> None:
        write_adapter(into)
        save_file(lora_tensors(), into / WEIGHTS_FILE, metadata={"format": "pt"})

    assert ingest_version(ingest, ScriptedSource(unprefixed)) == ingest_version(ingest, ScriptedSource(as_by_peft))
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"r": 64},
            "a higher LORAMUX_ENGINE__MAX_LORA_RANK, at most 512, needs a restart",
        ),
        ({"use_dora": True}, "DoRA"),
    ],
)
def test_weights_that_are_too_large_are_refused_by_what_the_config_declares(
    ingest: AdapterIngest, tmp_path: Path, config: dict[str, int], reason: str
) -> None:
    """A5: rank 64 at limit 8."""
    folder = write_adapter(tmp_path / "tone", lora_config(**config))
    os.truncate(folder / WEIGHTS_FILE, 1 << 40)
    with pytest.raises(InvalidAdapter, match=reason):
        ingest_version(ingest, FolderSource(folder, [tmp_path]))


@pytest.mark.parametrize("config", [{}, {"lora_alpha": None}])
def test_other_weights_that_are_too_large_are_refused_by_their_size_or_their_config(
    ingest: AdapterIngest, tmp_path: Path, config: dict[str, int]
) -> None:
    folder = write_adapter(tmp_path / "tone", lora_config(**config))
    os.truncate(folder / WEIGHTS_FILE, 1 << 40)
    with pytest.raises(InvalidAdapter, match="lora_alpha" if config else "too large"):
        ingest_version(ingest, FolderSource(folder, [tmp_path]))


def test_copies_of_the_base_s_weights_are_compared_with_its_files(ingest: AdapterIngest, tmp_path: Path) -> None:
    """A13: saved embeddings equal to the base's."""
    head = {"base_model.model.lm_head.weight": np.ones((64, 16), np.float32)}
    (tmp_path / "base").mkdir()
    save_file({"lm_head.weight": np.ones((64, 16), np.float16)}, tmp_path / "base" / "model.safetensors")
    config = lora_config(modules_to_save=["lm_head"])
    source = ScriptedSource(lambda into: write_adapter(into, config, lora_tensors() | head))
    ingest_version(replace(ingest, base_folder=tmp_path / "base"), source)
    (stored,) = ingest.registry.get(TONE).versions
    assert any("copies of the base's own weights" in warning for warning in stored.manifest.warnings)
    with pytest.raises(InvalidAdapter, match="modules_to_save"):
        ingest_version(ingest, source)


def test_a_base_without_adapters_says_so_before_files_are_fetched(ingest: AdapterIngest) -> None:
    base = BASE.model_copy(update={"refusal": "vLLM applies no adapters to this base"})
    with pytest.raises(InvalidAdapter, match="vLLM applies no adapters to this base"):
        ingest_version(replace(ingest, base=base), ScriptedSource(raise_disk_full))


def test_the_declared_rank_of_an_mlx_adapter_is_known(tmp_path: Path) -> None:
    """A12: mlx-lm."""
    folder = write_adapter(tmp_path, {"fine_tune_type": "lora", "lora_parameters": {"rank": 24, "scale": 2.0}})
    assert declared_rank(FolderSource(folder, [tmp_path])) == 24
    assert declared_rank(FolderSource(tmp_path / "none", [tmp_path])) is None


@pytest.mark.parametrize("error", [ValueError, OverflowError, KeyError, IndexError, RecursionError, TypeError])
def test_content_that_nobody_thought_of_is_refused(
    ingest: AdapterIngest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A mistake in our own checks is one refused adapter: no file may stop a server."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ingest_module, "normalize", fail)
    with pytest.raises(InvalidAdapter, match=f"the files can't be understood: {error.__name__}"):
        ingest_version(ingest, ScriptedSource(write_adapter))
    assert not contents(tmp_path)
    monkeypatch.setattr(ingest_module, "declared_config", fail)
    assert declared_rank(ScriptedSource(write_adapter)) is None


def test_a_config_stays_about_as_large_as_it_was(ingest: AdapterIngest) -> None:
    """Indentation would make one of deep brackets a thousand times larger."""
    deep: list[object] = [0] * 300
    for _ in range(300):
        deep = [deep]
    config = lora_config(r=4.0, runtime_config=deep)
    staged = ingest.stage(TONE, ScriptedSource(lambda into: write_adapter(into, config)), print)
    try:
        assert (staged.folder / CONFIG_FILE).stat().st_size <= 2 * len(json.dumps(config))
    finally:
        staged.discard()
