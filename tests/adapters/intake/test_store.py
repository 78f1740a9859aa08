import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from loramux_adapters.errors import InvalidAdapter, StoreError
from loramux_adapters.intake.content import ADAPTER_FILES, TEMPLATE_FILE, WEIGHTS_FILE
from loramux_adapters.intake.store import MANIFEST_FILE, VersionStore
from loramux_adapters.intake.validation import validate
from loramux_adapters.models import Manifest
from tests.helpers.adapter_files import BASE, lora_tensors, write_adapter

ROOT = Path(__file__).parents[3]


def refusing(code: int) -> Callable[..., NoReturn]:
    """Return a system call that fails with `code`."""

    def fails(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fails


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "store")


def put(store: VersionStore, seed: int = 0) -> Manifest:
    with store.staging() as staged:
        manifest = validate(write_adapter(staged, tensors=lora_tensors(seed=seed)), BASE, max_rank=8)
        store.put(staged, manifest)
    return manifest


def staged_folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "staging").iterdir())


def test_a_version_is_stored_under_its_digest_as_it_was_accepted(store: VersionStore, tmp_path: Path) -> None:
    manifest = put(store)
    folder = store.path(manifest.digest)
    assert folder == tmp_path / "store" / "versions" / manifest.digest
    assert {path.name for path in folder.iterdir()} == {*ADAPTER_FILES, MANIFEST_FILE}
    assert store.verify(manifest.digest) == manifest
    assert validate(folder, BASE, max_rank=8) == manifest
    assert not staged_folders(tmp_path)


def put_with_template(store: VersionStore) -> Manifest:
    with store.staging() as staged:
        (write_adapter(staged) / TEMPLATE_FILE).write_text("template")
        manifest = validate(staged, BASE, max_rank=8)
        store.put(staged, manifest)
    return manifest


def test_a_template_is_stored_and_verified_with_its_version(store: VersionStore) -> None:
    """A10: an adapter's own chat template is part of its version."""
    manifest = put_with_template(store)
    template = store.path(manifest.digest) / TEMPLATE_FILE
    assert store.verify(manifest.digest) == manifest
    assert stat.S_IMODE(template.stat().st_mode) == 0o444
    template.chmod(0o644)
    template.write_text("other")
    with pytest.raises(StoreError, match="changed"):
        store.verify(manifest.digest)


def test_a_template_that_is_added_later_is_no_part_of_a_version(store: VersionStore) -> None:
    manifest = put(store)
    (store.path(manifest.digest) / TEMPLATE_FILE).write_text("template")
    assert store.verify(manifest.digest) == manifest


def test_a_description_that_could_not_be_read_again_is_refused(store: VersionStore) -> None:
    with store.staging() as staged:
        manifest = validate(write_adapter(staged), BASE, max_rank=8)
        large = manifest.model_copy(update={"warnings": ("x" * (4 << 20),)})
        with pytest.raises(InvalidAdapter, match=MANIFEST_FILE):
            store.put(staged, large)
    assert not store.path(manifest.digest).exists()


def test_a_version_s_files_are_read_only(store: VersionStore) -> None:
    folder = store.path(put(store).digest)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}


def test_the_same_content_twice_is_one_version(store: VersionStore, tmp_path: Path) -> None:
    first = put(store)
    inode = (store.path(first.digest) / WEIGHTS_FILE).stat().st_ino
    assert put(store) == first
    assert (store.path(first.digest) / WEIGHTS_FILE).stat().st_ino == inode
    assert len(list((tmp_path / "store" / "versions").iterdir())) == 1
    assert not staged_folders(tmp_path)


def test_other_content_is_another_version(store: VersionStore) -> None:
    assert put(store, seed=1).digest != put(store, seed=2).digest


@pytest.mark.parametrize("name", [*ADAPTER_FILES, MANIFEST_FILE])
def test_a_changed_or_missing_file_is_detected(store: VersionStore, name: str) -> None:
    manifest = put(store)
    file = store.path(manifest.digest) / name
    intact = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(intact[:-2] + bytes([intact[-2] ^ 1]) + intact[-1:])
    with pytest.raises(StoreError):
        store.verify(manifest.digest)
    file.unlink()
    with pytest.raises(StoreError):
        store.verify(manifest.digest)


def test_a_version_under_another_digest_is_detected(store: VersionStore) -> None:
    one, other = put(store, seed=1), put(store, seed=2)
    shutil.rmtree(store.path(one.digest))
    store.path(other.digest).rename(store.path(one.digest))
    with pytest.raises(StoreError, match="changed"):
        store.verify(one.digest)


@pytest.mark.parametrize("name", [*ADAPTER_FILES, MANIFEST_FILE])
def test_corrupt_content_is_repaired_by_putting_the_same_content_again(
    store: VersionStore, tmp_path: Path, name: str
) -> None:
    manifest = put(store)
    (store.path(manifest.digest) / name).unlink()
    assert put(store) == manifest
    assert store.verify(manifest.digest) == manifest
    assert not staged_folders(tmp_path)


def test_a_manifest_that_became_a_link_or_a_huge_file_is_corrupt(store: VersionStore) -> None:
    manifest = put(store)
    file = store.path(manifest.digest) / MANIFEST_FILE
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")
    with pytest.raises(StoreError, match="corrupt"):
        store.verify(manifest.digest)
    file.unlink()
    file.touch()
    os.truncate(file, 1 << 40)
    with pytest.raises(StoreError, match="corrupt"):
        store.verify(manifest.digest)


def test_a_lack_of_file_descriptors_is_not_corruption(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = put(store)
    monkeypatch.setattr(os, "open", refusing(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        store.verify(manifest.digest)
    monkeypatch.undo()
    assert store.verify(manifest.digest) == manifest


def test_a_removed_version_is_gone_and_can_be_put_again(store: VersionStore, tmp_path: Path) -> None:
    manifest = put(store)
    store.remove(manifest.digest)
    assert not store.path(manifest.digest).exists()
    assert not staged_folders(tmp_path)
    with pytest.raises(StoreError):
        store.verify(manifest.digest)
    assert put(store) == manifest
    assert store.verify(manifest.digest) == manifest


def test_removing_a_missing_version_does_nothing(store: VersionStore) -> None:
    store.remove("0" * 64)


def test_a_version_that_can_t_be_removed_is_still_complete(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = put(store)
    monkeypatch.setattr(Path, "rename", refusing(errno.EROFS))
    with pytest.raises(StoreError, match="Read-only file system; mount the disk of LORAMUX_DATA_DIR"):
        store.remove(manifest.digest)
    assert store.verify(manifest.digest) == manifest
    assert not staged_folders(tmp_path)


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "a" * 63, "a" * 65, f"{'a' * 64}\n", "a" * 12])
def test_an_invalid_digest_is_never_made_into_a_path(store: VersionStore, digest: str) -> None:
    with pytest.raises(StoreError):
        store.path(digest)


def test_staging_is_removed_after_an_error(store: VersionStore, tmp_path: Path) -> None:
    with pytest.raises(KeyError), store.staging() as staged:
        (staged / "half").write_text("x")
        raise KeyError
    assert not staged_folders(tmp_path)


def test_a_full_disk_is_the_store_s_error_and_leaves_nothing(store: VersionStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No space left on device; free space") as caught, store.staging():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/path")
    assert "secret" not in caught.value.message
    assert not staged_folders(tmp_path)


STEPS = ["pathlib.Path.write_text", "pathlib.Path.chmod", "os.fsync", "pathlib.Path.rename", "tempfile.mkdtemp"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("step", STEPS)
def test_wherever_putting_fails_nothing_is_left_and_the_store_works_again_afterwards(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    other = put(store, seed=1)
    monkeypatch.setattr(step, refusing(code))
    with pytest.raises(StoreError, match=os.strerror(code)):
        put(store)
    monkeypatch.undo()
    assert not staged_folders(tmp_path)
    assert [path.name for path in (tmp_path / "store" / "versions").iterdir()] == [other.digest]
    assert store.verify(other.digest) == other
    manifest = put(store)
    assert store.verify(manifest.digest) == manifest


def test_a_write_that_the_system_cuts_short_leaves_nothing_and_later_ones_succeed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.processes.cut_write", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    refusal, digest = done.stdout.splitlines()
    assert refusal == "The adapter store can't be written: File too large."
    assert [path.name for path in (tmp_path / "store" / "versions").iterdir()] == [digest]
    assert not staged_folders(tmp_path)


def test_a_store_that_can_t_be_created_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="created"):
        VersionStore(tmp_path / "file")


def test_cleaning_leaves_versions_and_staging_folders_in_use(store: VersionStore, tmp_path: Path) -> None:
    manifest = put(store)
    with store.staging() as staged:
        assert VersionStore(tmp_path / "store").clean_staging() == 0
        assert staged.exists()
    assert store.verify(manifest.digest)


def test_staging_folders_of_killed_processes_are_removed(store: VersionStore, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.helpers.processes.killed_while_staging", str(tmp_path / "store")]
    killed = subprocess.run(command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(staged_folders(tmp_path)) == 1
    assert store.clean_staging() == 1
    assert not staged_folders(tmp_path)
