"""Adapters from a local folder, which must be inside one of the allowed roots."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.errors import PathNotAllowed
from loramux_adapters.intake.content import check_listing, copy_bounded, open_regular
from loramux_adapters.intake.sources import ReportProgress

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
        """Copy the files named in `max_bytes` to `into`.

        Each folder of the path and each file is opened without following links, and read through that descriptor, so
        that a folder replaced by a link after the check of the path is never read.

        Raises:
            PathNotAllowed: the folder is outside the roots, or does not exist.
            InvalidAdapter: a file is missing, too large or not a regular file.
            OSError: the disk failed.
        """
        root, inside = self._locate()
        with ExitStack() as stack:
            try:
                folder = _open_folder(stack, root, inside)
            except OSError as error:
                raise _not_allowed() from error
            check_listing(os.listdir(folder))  # noqa: PTH208 - a Path can't be made of a descriptor
            for name, limit in max_bytes.items():
                with open_regular(name, folder=folder) as file:
                    copy_bounded(file, into / name, limit)

    def _locate(self) -> tuple[Path, Path]:
        """Return the root that contains the folder, and the path relative to it, with all links resolved."""
        try:
            path = self.path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise _not_allowed() from error
        for root in self.roots:
            resolved = root.resolve()
            if path.is_relative_to(resolved):
                return resolved, path.relative_to(resolved)
        raise _not_allowed()


def _open_folder(stack: ExitStack, root: Path, inside: Path) -> int:
    folder = os.open(root, _OPEN_FOLDER)
    stack.callback(os.close, folder)
    for part in inside.parts:
        folder = os.open(part, _OPEN_FOLDER, dir_fd=folder)
        stack.callback(os.close, folder)
    return folder


def _not_allowed() -> PathNotAllowed:
    """Return one error for both cases, so that clients can't find out what exists on the server's disk."""
    return PathNotAllowed("The folder does not exist, or is outside the allowed folders (LORAMUX_ALLOWED_ROOTS).")
