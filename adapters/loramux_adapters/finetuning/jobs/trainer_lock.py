"""The trainer's seat: of all servers and trainers that share a data folder, one works on jobs at a time."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_SECONDS = 0.5


@asynccontextmanager
async def seat(path: Path) -> AsyncIterator[int]:
    """Wait for the seat and hold it while the context lasts; yields the descriptor that holds it.

    A trainer inherits the descriptor. So when its server was killed, the seat is free only when the trainer has ended
    too, and the next server can't start a second one beside it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _taken(descriptor):  # noqa: ASYNC110 - another process holds it, and tells nobody
            await asyncio.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
