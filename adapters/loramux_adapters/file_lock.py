"""Advisory locks on files and folders (flock): they end with the processes that hold them, even if these are killed.

A lock belongs to an open descriptor. Child processes that inherit the descriptor hold the lock too, until the last of
them has closed it or ended.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

_OPEN_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class FileLock:
    """A lock on the file `path`, which is created if need be, or on the existing folder `path` with `folder`.

    Like `threading.Lock`, it is acquired and released by its methods or by `with`; it is not reentrant. Several holders
    may have a `shared` lock, but only one an exclusive one. A symbolic link is an error unless `follow_links`.
    """

    def __init__(self, path: Path, *, folder: bool = False, shared: bool = False, follow_links: bool = True) -> None:
        flags = _OPEN_FOLDER if folder else _OPEN_FILE
        self._path, self._flags, self._shared = path, flags if follow_links else flags | os.O_NOFOLLOW, shared
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the lock; pass it to child processes that should hold it too (`pass_fds`).

        Raises:
            RuntimeError: the lock is not held.
        """
        if self._descriptor is None:
            raise RuntimeError(f"The lock on {self._path} is not held.")
        return self._descriptor

    def acquire(self, *, blocking: bool = True) -> bool:
        """Acquire the lock; returns False if it is held elsewhere and `blocking` is off.

        Raises:
            RuntimeError: this object holds the lock already.
            OSError: the file or folder can't be opened.
        """
        if self._descriptor is not None:
            raise RuntimeError(f"The lock on {self._path} is held already.")
        descriptor = os.open(self._path, self._flags, 0o600)
        try:
            is_acquired = lock_descriptor(descriptor, shared=self._shared, blocking=blocking)
        except BaseException:
            os.close(descriptor)
            raise
        if is_acquired:
            self._descriptor = descriptor
        else:
            os.close(descriptor)
        return is_acquired

    def release(self) -> None:
        """Close this process's descriptor; does nothing if the lock is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        if self._descriptor is None:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_descriptor(descriptor: int, *, shared: bool = False, blocking: bool = True) -> bool:
    """Lock an open file or folder until it is closed; returns False if it is locked elsewhere and `blocking` is off."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation if blocking else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether the existing file `path` is locked exclusively elsewhere.

    Raises:
        OSError: the file can't be opened.
    """
    with path.open("rb") as file:
        return not lock_descriptor(file.fileno(), shared=True, blocking=False)
