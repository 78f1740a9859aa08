"""Tasks that run next to others: to their end though their caller is cancelled, or for as long as a context lasts."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class BackgroundTasks:
    """Keeps references to running tasks, since the event loop itself keeps only weak ones."""

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which continues if the caller is cancelled."""
        return await asyncio.shield(self.start(work))

    async def wait(self) -> None:
        """Wait until the tasks have ended, successfully or not."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - what is left after it is cancelled
        """Wait for the tasks up to `timeout` seconds, then cancel the remaining ones."""
        if self._tasks:
            _, remaining = await asyncio.wait(self._tasks, timeout=timeout)
            for task in remaining:
                task.cancel()


@asynccontextmanager
async def running_task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` while the context is active; on exit, cancel it and wait until it has ended."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
