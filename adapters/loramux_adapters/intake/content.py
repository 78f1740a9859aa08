"""An adapter's two files: how they are opened, chosen from a folder, and named by their content."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.models import FileFacts

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_COPY_BYTES = 1 << 20

OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing about a file: it may be opened a moment later."""


def open_regular(path: str | Path, *, folder: int | None = None) -> BufferedReader:
    """Open a regular file for reading, in the open folder `folder` if given; raises InvalidAdapter, OSError.

    A symbolic link is not followed, and a pipe or device, on which a reader may wait for ever, is refused.
    """
    name = Path(path).name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        reason = "is a symbolic link" if error.errno == errno.ELOOP else f"can't be opened: {error.strerror}"
        raise InvalidAdapter(reason, where=name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidAdapter("is not a regular file", where=name)
    return os.fdopen(descriptor, "rb")


def copy_bounded(source: BinaryIO, target: Path, most: int) -> None:
    """Copy all of `source` to the new file `target`; raises InvalidAdapter beyond `most` bytes, and OSError."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    with target.open("xb") as copy:
        # Counted as well, because the file may grow meanwhile.
        while size <= most and (piece := source.read(_COPY_BYTES)):
            copy.write(piece)
            size = max(size, copy.tell())
    if size > most:
        raise too_large(target.name, most, size)


def too_large(name: str, most: int, size: int) -> InvalidAdapter:
    """The refusal of a file that no adapter of this base could need."""
    return InvalidAdapter("the file is too large", where=name, expected=f"at most {most} bytes", found=size)


def check_listing(names: Iterable[str]) -> None:
    """Refuse a folder without an adapter's two files, by the names in it: no other file is ever opened."""
    present = set(names)
    missing = [name for name in ADAPTER_FILES if name not in present]
    if not missing:
        return
    pickles = sorted(name for name in present if name.endswith(_PICKLE_SUFFIXES))
    if missing == [WEIGHTS_FILE] and pickles:
        raise InvalidAdapter("can run code when it is read; only safetensors are accepted", where=pickles[0])
    raise InvalidAdapter("the file is missing", where=missing[0])


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Return size and SHA-256 of the adapter's files in `folder`; raises InvalidAdapter and OSError."""
    facts = {}
    for name in ADAPTER_FILES:
        with open_regular(folder / name) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            facts[name] = FileFacts(bytes=file.tell(), sha256=sha256)
    return facts


def content_digest(files: Mapping[str, FileFacts]) -> str:
    """Return the SHA-256 that names a version: that of the lines which `sha256sum` prints for its files, by name.

    So anyone can check it: `sha256sum adapter_config.json adapter_model.safetensors | sha256sum`.
    """
    lines = (f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
