"""Several files read as one."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class ConcatenatedFiles:
    """The contents of the files at `paths`, one after the other; at most one of them is open.

    Raises:
        OSError: a file can't be opened or read (read).
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._opened = paths, 0
        self._stack = ExitStack()
        self._file: BinaryIO | None = None

    def read(self, size: int) -> bytes:
        """Return at least 1 and at most `size` bytes, none at the end."""
        while True:
            if self._file and (piece := self._file.read(size)):
                return piece
            if self._opened == len(self._paths):
                return b""
            self._stack.close()
            self._file = self._stack.enter_context(self._paths[self._opened].open("rb"))
            self._opened += 1

    def rewind(self) -> None:
        """Start at the beginning again."""
        self._stack.close()
        self._file, self._opened = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.rewind()
