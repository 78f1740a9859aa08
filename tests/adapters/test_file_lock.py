import os
import subprocess
import sys
from pathlib import Path

import pytest

from loramux_adapters.file_lock import FileLock, is_locked, lock_descriptor

HOLD = """
import sys
from pathlib import Path
from loramux_adapters.file_lock import FileLock
with FileLock(Path(sys.argv[1]), folder=Path(sys.argv[1]).is_dir()):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["file", "folder"])
def lock_path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / str(request.param)
    if path.name == "folder":
        path.mkdir()
    return path


def lock_of(path: Path, *, shared: bool = False) -> FileLock:
    return FileLock(path, folder=path.name == "folder", shared=shared)


def test_an_exclusive_lock_has_one_holder(lock_path: Path) -> None:
    with lock_of(lock_path):
        assert not lock_of(lock_path).acquire(blocking=False)
        assert not lock_of(lock_path, shared=True).acquire(blocking=False)
    with lock_of(lock_path):
        pass


def test_a_shared_lock_has_several_holders_and_excludes_an_exclusive_one(lock_path: Path) -> None:
    exclusive = lock_of(lock_path)
    with lock_of(lock_path, shared=True):
        with lock_of(lock_path, shared=True):
            assert not exclusive.acquire(blocking=False)
        assert not exclusive.acquire(blocking=False)
    assert exclusive.acquire(blocking=False)
    exclusive.release()


def test_a_lock_that_was_acquired_can_be_used_in_a_with_statement(lock_path: Path) -> None:
    lock = lock_of(lock_path)
    assert lock.acquire(blocking=False)
    with lock:
        assert not lock_of(lock_path).acquire(blocking=False)
    assert lock_of(lock_path).acquire(blocking=False)


def test_a_lock_is_not_reentrant_and_releasing_twice_does_nothing(lock_path: Path) -> None:
    lock = lock_of(lock_path)
    with lock, pytest.raises(RuntimeError, match="held already"):
        lock.acquire(blocking=False)
    lock.release()
    with pytest.raises(RuntimeError, match="is not held"):
        _ = lock.descriptor


def test_a_lock_ends_with_its_process_even_if_it_is_killed(lock_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock_path)], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        lock = lock_of(lock_path)
        assert not lock.acquire(blocking=False)
        holder.kill()
        lock.acquire()
        lock.release()


def test_a_child_process_that_inherits_the_descriptor_holds_the_lock_too(lock_path: Path) -> None:
    lock = lock_of(lock_path)
    with lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor])
    with child:
        assert not lock.acquire(blocking=False)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == 0
    assert lock.acquire(blocking=False)
    lock.release()


def test_other_child_processes_do_not_hold_the_lock(lock_path: Path) -> None:
    lock = lock_of(lock_path)
    with lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    assert lock.acquire(blocking=False)
    lock.release()
    child.communicate()


def test_the_lock_of_a_missing_folder_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "folder", folder=True).acquire()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        FileLock(tmp_path / "file", folder=True).acquire()


def test_a_refused_lock_leaves_no_descriptor_open(lock_path: Path) -> None:
    with lock_of(lock_path):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no files on a disk
        assert not lock_of(lock_path).acquire(blocking=False)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_an_open_file_can_be_locked_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("xb") as file:
        assert lock_descriptor(file.fileno())
        assert is_locked(tmp_path / "file")
    assert not is_locked(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        is_locked(tmp_path / "missing")


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_is_followed_unless_that_is_refused(tmp_path: Path, *, folder: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir() if folder else target.touch()
    link.symlink_to(target)
    with FileLock(link, folder=folder):
        assert not FileLock(target, folder=folder).acquire(blocking=False)
    with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
        FileLock(link, folder=folder, follow_links=False).acquire()
