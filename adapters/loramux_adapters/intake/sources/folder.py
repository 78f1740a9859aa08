"""Adapters from a local folder, which must be inside one of the allowed roots."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from loramux_adapters.errors import InvalidAdapter, PathNotAllowed
from loramux_adapters.intake.content import CONFIG_FILE, OUT_OF_RESOURCES, check_listing, copy_bounded, open_regular
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.sources.selection import copy_adapter

EntryState = tuple[int, int, int, int, int]
FolderState = dict[str, EntryState]

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ENTRIES = 10_000
"""How many entries of a folder are looked at to name the adapters in the folders below."""
_LEAVES_ROOTS = "is a symbolic link to something outside the allowed folders (LORAMUX_ALLOWED_ROOTS)"


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The folder `path`, which must be inside one of `roots`."""

    path: Path
    roots: Sequence[Path]

    @property
    def origin(self) -> dict[str, str]:
        """The origin to record in the registry."""
        return {"type": "folder", "path": str(self.path)}

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:  # noqa: ARG002 - copying is fast
        """Copy the adapter's files to `into`.

        Each folder of the path and each file is opened without following links, and read through that descriptor, so
        that a folder replaced by a link after the check of the path is never read. Links are resolved before that.

        Raises:
            PathNotAllowed: the folder is outside the roots, or does not exist.
            InvalidAdapter: a file is missing, too large, not a regular file, or a link that leaves the roots.
            OSError: the disk failed.
        """
        with ExitStack() as stack:
            folder, located, names = self._open_checked(stack)

            def copy(name: str, limit: int) -> bool:
                if name in names:
                    with self._open(name, folder, located) as file:
                        copy_bounded(file, into / name, limit)
                return name in names

            copy_adapter(copy, into, max_bytes)

    def state(self) -> FolderState:
        """Return what changes with the content of each entry: size, times of the last changes (ns), inode and device.

        Links are followed. It is read without opening a file.

        Raises:
            PathNotAllowed: the folder is outside the roots, or does not exist.
            InvalidAdapter: config or weights are missing.
            OSError: the disk failed.
        """
        with ExitStack() as stack:
            folder, _, names = self._open_checked(stack)
            return {name: _entry_state(name, folder) for name in names}

    def _open_checked(self, stack: ExitStack) -> tuple[int, tuple[Path, Path], frozenset[str]]:
        """Open the folder until `stack` is closed; returns its descriptor, its path as located, and its entries."""
        located = self._locate(self.path)
        try:
            if located is None:
                raise _not_allowed()
            folder = _open_folder(stack, *located)
        except OSError as error:
            raise _not_allowed() from error
        names = frozenset(os.listdir(folder))  # noqa: PTH208 - a Path can't be made of a descriptor
        check_listing(names, _adapters_below(folder, names))
        return folder, located, names

    def _locate(self, path: Path) -> tuple[Path, Path] | None:
        """Return the root that contains `path`, and the path relative to it, with all links resolved."""
        try:
            path = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return None
        for root in self.roots:
            resolved = root.resolve()
            if path.is_relative_to(resolved):
                return resolved, path.relative_to(resolved)
        return None

    def _open(self, name: str, folder: int, located: tuple[Path, Path]) -> BufferedReader:
        """Open the file `name` of `folder`, whose path is `located`; a link is followed if its target is in a root.

        The Hub's cache has such links.
        """
        if not _is_link(name, folder):
            return open_regular(name, folder=folder)
        target = self._locate(Path(*located, name))
        if target is None:
            raise InvalidAdapter(_LEAVES_ROOTS, where=name)
        root, inside = target
        with ExitStack() as stack:
            try:
                return open_regular(inside.name, folder=_open_folder(stack, root, inside.parent))
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise
                raise InvalidAdapter(_LEAVES_ROOTS, where=name) from error


def _adapters_below(folder: int, names: Collection[str]) -> Iterator[str]:
    """Yield those of the folders `names` that contain an adapter's config, without following links."""
    for name in sorted(names)[:_MAX_ENTRIES]:
        with suppress(OSError), ExitStack() as stack:
            below = _open_folder(stack, Path(name), Path(), folder)
            os.stat(CONFIG_FILE, dir_fd=below, follow_symlinks=False)
            yield name


def _open_folder(stack: ExitStack, root: Path, inside: Path, parent: int | None = None) -> int:
    folder = os.open(root, _OPEN_FOLDER, dir_fd=parent)
    stack.callback(os.close, folder)
    for part in inside.parts:
        folder = os.open(part, _OPEN_FOLDER, dir_fd=folder)
        stack.callback(os.close, folder)
    return folder


def _entry_state(name: str, folder: int) -> EntryState:
    try:
        found = os.stat(name, dir_fd=folder)
    except OSError:  # a link to nothing, which may become one to something
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def _is_link(name: str, folder: int) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _not_allowed() -> PathNotAllowed:
    """Return one error for both cases, so that clients can't find out what exists on the server's disk."""
    return PathNotAllowed("The folder does not exist, or is outside the allowed folders (LORAMUX_ALLOWED_ROOTS).")
