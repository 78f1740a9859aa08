"""The signal that a job was added or moved, so that the supervisor needn't wait for its next poll."""

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ChangeSignal:
    """Set by the API of this server; changes by other servers are found by polling every `poll_seconds`."""

    poll_seconds: float = 1.0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self) -> None:
        """Signal that a job was added or moved."""
        self._changed.set()

    async def wait(self, *tasks: asyncio.Task[Any], seconds: float | None = None) -> None:
        """Wait until a change is signalled, a task is done, or `seconds` (the poll interval if None) have passed."""
        changed = asyncio.create_task(self._changed.wait())
        timeout = self.poll_seconds if seconds is None else seconds
        try:
            await asyncio.wait({changed, *tasks}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            self._changed.clear()
