"""The trainer lock: of all servers and trainers that share a data folder, one works on jobs at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from loramux_adapters.file_lock import FileLock, is_locked

LOCK_FILE = "seat"  # named so by earlier releases: one that still runs must be excluded too
_POLL_SECONDS = 0.5


def is_trainer_running(path: Path) -> bool:
    """Whether another server, or a trainer that has outlived its own, holds the lock.

    Raises:
        OSError: the file can't be opened.
    """
    return path.exists() and is_locked(path)


async def wait_until_released(path: Path, seconds: float, poll_seconds: float = _POLL_SECONDS) -> None:
    """Wait until nobody holds the lock, at most `seconds`.

    Raises:
        OSError: the file can't be opened.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while is_trainer_running(path):  # noqa: ASYNC110 - as below
                await asyncio.sleep(poll_seconds)


@asynccontextmanager
async def trainer_lock(path: Path, poll_seconds: float = _POLL_SECONDS) -> AsyncIterator[int]:
    """Wait for the lock and hold it while the context lasts; yields the file descriptor that holds it.

    A trainer inherits the descriptor. When its server is killed, the lock is released only once the trainer has exited
    too, so the next server can't start a second trainer.

    Raises:
        OSError: the file can't be opened or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while not lock.acquire(blocking=False):  # noqa: ASYNC110 - no event signals that another process released it
        await asyncio.sleep(poll_seconds)
    with lock:
        yield lock.descriptor
