"""Adapters from a folder of this machine, which must lie in one of the allowed roots."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.errors import PathNotAllowed
from loramux_adapters.intake.content import check_listing, copy_bounded, open_regular
from loramux_adapters.intake.sources import Tell

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The folder `path`, which counts only inside one of `roots`."""

    path: Path
    roots: Sequence[Path]

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "folder", "path": str(self.path)}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:  # noqa: ARG002 - a copy takes no time
        """Copy the files named in `largest`, each of at most so many bytes, to `into`.

        Every folder on the way and each file is opened without following links and read through that same
        descriptor, so that nothing swapped in after the check of the path is ever read.
        Raises PathNotAllowed, InvalidAdapter, OSError.
        """
        root, inside = self._locate()
        with ExitStack() as stack:
            try:
                folder = _open_folder(stack, root, inside)
            except OSError as error:
                raise _not_allowed() from error
            check_listing(os.listdir(folder))  # noqa: PTH208 - a Path can't be made of a descriptor
            for name, most in largest.items():
                with open_regular(name, folder=folder) as file:
                    copy_bounded(file, into / name, most)

    def _locate(self) -> tuple[Path, Path]:
        """Return the root that holds the folder, and the way from there, both free of links."""
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
    """One answer whether the folder is outside or missing: the server does not tell what lies on its disk."""
    return PathNotAllowed("The folder is in none of the folders that adapters may come from, or does not exist.")
