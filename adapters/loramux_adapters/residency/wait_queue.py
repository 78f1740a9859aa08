"""A first-come, first-served queue of tasks that wait for versions; a grant serves all tasks that want the version."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from loramux_adapters.models import VersionId

T = TypeVar("T")


@dataclass(eq=False)
class WaitQueue(Generic[T]):
    """The waiting tasks of one event loop, in order of arrival; each is granted a T that it has to release."""

    _waiters: dict[asyncio.Future[T], VersionId] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(not waiter.done() for waiter in self._waiters)

    @property
    def first_waiting(self) -> VersionId | None:
        """The version at the head of the queue, or None if the queue is empty."""
        return next((version for waiter, version in self._waiters.items() if not waiter.done()), None)

    def enqueue(self, version: VersionId) -> asyncio.Future[T]:
        """Append a waiter for `version`; pass it to `wait` before anything else is awaited."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = version
        return waiter

    async def wait(self, waiter: asyncio.Future[T], release: Callable[[T], None]) -> T:
        """Wait for the grant; a task cancelled between grant and wake-up releases what it was granted."""
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                release(waiter.result())
            raise
        finally:
            del self._waiters[waiter]

    def grant(self, version: VersionId, acquire: Callable[[], T]) -> None:
        """Resolve every waiter for `version` with its own `acquire()`."""
        for waiter, wanted in self._waiters.items():
            if wanted == version and not waiter.done():
                waiter.set_result(acquire())
