"""A version's files as a tar archive: the same bytes at any time, so that an interrupted download can go on."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from loramux_adapters.errors import InvalidAdapter, StoreError
from loramux_adapters.intake.content import VERSION_FILES, content_digest, hash_files, open_regular
from loramux_adapters.models import FileInfo, Manifest

BLOCK_BYTES = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK_BYTES)
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the archive: bytes, or the whole content of a file."""

    size: int
    content: bytes | BinaryIO


class VersionArchive:
    """The archive of a version's files, which stay readable while it is open, even if the version is removed.

    Its members have the names of the files and no other properties: no times, no owners, no paths.
    """

    def __init__(self, parts: Sequence[_Part], files: ExitStack) -> None:
        self._parts, self._files = parts, files
        self.size = sum(part.size for part in parts)
        """Size in bytes."""

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> Self:
        """Open the files of the version in `folder`.

        Raises:
            StoreError: a file is missing, or has another size than it had when it was accepted.
        """
        parts: list[_Part] = []
        with ExitStack() as stack:
            for name in (name for name in VERSION_FILES if name in manifest.files):
                parts += _member(name, manifest.files[name].bytes, _open(folder / name, stack))
            return cls([*parts, _Part(len(END), END)], stack.pop_all())

    def read(self, start: int = 0) -> Iterator[bytes]:
        """Yield the archive from byte `start` on; closes it at the end. Blocks on the disk.

        Raises:
            StoreError: a file has become shorter.
        """
        with self._files:
            for part in self._parts:
                if start < part.size:
                    yield from _pieces(part, start)
                start = max(0, start - part.size)

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def unpack(archive: BinaryIO, folder: Path) -> dict[str, FileInfo]:
    """Write the files of a version's archive to `folder`, and return their sizes and SHA-256 by name.

    Raises:
        InvalidAdapter: it is not such an archive, or has other members.
        OSError: a file can't be written.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                if member.name not in VERSION_FILES or not member.isreg() or (folder / member.name).exists():
                    raise InvalidAdapter("the archive has an unexpected member", where=member.name)
                tar.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise InvalidAdapter("the archive can't be read", where="archive") from error
    return hash_files(folder)


def check_digest(files: dict[str, FileInfo], digest: str) -> None:
    """Check that files are those of the version with this digest, which may be the first characters of it.

    Raises:
        InvalidAdapter: they are not.
    """
    found = content_digest(files)
    if not found.startswith(digest):
        raise InvalidAdapter("the files are not those of the version", where="archive", expected=digest, found=found)


def _open(path: Path, stack: ExitStack) -> BinaryIO:
    try:
        return stack.enter_context(open_regular(path))
    except InvalidAdapter as error:
        raise StoreError("A file of the version is missing from the store.") from error


def _member(name: str, size: int, file: BinaryIO) -> list[_Part]:
    """Return the parts of one file: header, content, and padding to whole blocks."""
    info = tarfile.TarInfo(name)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)  # unlike USTAR, of any size
    padding = bytes(-size % BLOCK_BYTES)
    return [_Part(len(header), header), _Part(size, file), _Part(len(padding), padding)]


def _pieces(part: _Part, start: int) -> Iterator[bytes]:
    if isinstance(part.content, bytes):
        yield part.content[start:]
        return
    part.content.seek(start)
    left = part.size - start
    while left:
        piece = part.content.read(min(left, _COPY_BYTES))
        if not piece:
            raise StoreError("A file of the version has become shorter.")
        left -= len(piece)
        yield piece
