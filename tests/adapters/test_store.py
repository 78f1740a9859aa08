import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from loramux_adapters.content import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.errors import StoreError
from loramux_adapters.records import Manifest
from loramux_adapters.store import MANIFEST_FILE, Store
from loramux_adapters.validation import validate
from tests.adapters.building import BASE, lora_tensors, write_adapter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, seed: int = 0) -> Manifest:
    with store.staging() as staged:
        manifest = validate(write_adapter(staged, tensors=lora_tensors(seed=seed)), BASE, max_rank=8)
        store.put(staged, manifest)
    return manifest


def staged_folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "staging").iterdir())


def test_a_version_lies_under_its_digest_and_reads_back_as_accepted(store: Store, tmp_path: Path) -> None:
    manifest = put(store)
    folder = store.path(manifest.digest)
    assert folder == tmp_path / "store" / "versions" / manifest.digest
    assert {path.name for path in folder.iterdir()} == {*ADAPTER_FILES, MANIFEST_FILE}
    assert store.verify(manifest.digest) == manifest
    assert validate(folder, BASE, max_rank=8) == manifest
    assert not staged_folders(tmp_path)


def test_a_version_s_files_are_read_only(store: Store) -> None:
    folder = store.path(put(store).digest)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}


def test_the_same_content_twice_is_one_version(store: Store, tmp_path: Path) -> None:
    first = put(store)
    inode = (store.path(first.digest) / WEIGHTS_FILE).stat().st_ino
    assert put(store) == first
    assert (store.path(first.digest) / WEIGHTS_FILE).stat().st_ino == inode
    assert len(list((tmp_path / "store" / "versions").iterdir())) == 1
    assert not staged_folders(tmp_path)


def test_other_content_is_another_version(store: Store) -> None:
    assert put(store, seed=1).digest != put(store, seed=2).digest


@pytest.mark.parametrize("name", [*ADAPTER_FILES, MANIFEST_FILE])
def test_a_version_with_one_file_changed_or_gone_is_noticed(store: Store, name: str) -> None:
    manifest = put(store)
    file = store.path(manifest.digest) / name
    sound = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(sound[:-2] + bytes([sound[-2] ^ 1]) + sound[-1:])
    with pytest.raises(StoreError):
        store.verify(manifest.digest)
    file.unlink()
    with pytest.raises(StoreError):
        store.verify(manifest.digest)


def test_a_version_under_another_one_s_digest_is_noticed(store: Store) -> None:
    one, other = put(store, seed=1), put(store, seed=2)
    shutil.rmtree(store.path(one.digest))
    store.path(other.digest).rename(store.path(one.digest))
    with pytest.raises(StoreError, match="changed"):
        store.verify(one.digest)


def test_damaged_content_does_not_pass_for_the_same_content_put_again(store: Store) -> None:
    (store.path(put(store).digest) / CONFIG_FILE).unlink()
    with pytest.raises(StoreError):
        put(store)


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "a" * 63, "a" * 65, f"{'a' * 64}\n", "a" * 12])
def test_what_is_no_digest_never_becomes_a_path(store: Store, digest: str) -> None:
    with pytest.raises(StoreError):
        store.path(digest)


def test_staging_is_removed_when_what_it_was_lent_for_fails(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyError), store.staging() as staged:
        (staged / "half").write_text("x")
        raise KeyError
    assert not staged_folders(tmp_path)


def test_a_full_disk_is_the_store_s_error_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No space left"), store.staging():
        raise OSError(28, os.strerror(28), "/secret/path")
    assert not staged_folders(tmp_path)


def test_a_store_that_can_t_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="made"):
        Store(tmp_path / "file")


def test_a_sweep_leaves_versions_and_folders_in_use_alone(store: Store, tmp_path: Path) -> None:
    manifest = put(store)
    with store.staging() as staged:
        assert Store(tmp_path / "store").sweep() == 0
        assert staged.exists()
    assert store.verify(manifest.digest)


KILLED = """
import os, signal, sys
from pathlib import Path
from loramux_adapters.store import Store
with Store(Path(sys.argv[1])).staging() as staged:
    (staged / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_half_written_is_swept(store: Store, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(staged_folders(tmp_path)) == 1
    assert store.sweep() == 1
    assert not staged_folders(tmp_path)
