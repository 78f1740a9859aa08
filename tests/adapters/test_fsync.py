import os
from pathlib import Path

import pytest

from loramux_adapters.fsync import fsync_path


def test_files_and_folders_are_flushed_and_their_descriptors_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no files on a disk
    fsync_path(tmp_path / "file")
    fsync_path(tmp_path)
    assert flushed == [tmp_path / "file", tmp_path]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "missing")


def test_a_link_is_followed_unless_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    fsync_path(tmp_path / "link")
    with pytest.raises(OSError, match="symbolic link"):
        fsync_path(tmp_path / "link", follow_links=False)
