"""Flushing files and folders to the disk."""

import os
from pathlib import Path


def fsync_path(path: Path, *, follow_links: bool = True) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Raises:
        OSError: the path can't be opened (a symbolic link can't, unless `follow_links`), or the disk failed.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
