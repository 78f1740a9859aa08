"""Blocking work in a daemon thread, for work that may wait on a remote host for a long time."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(work: Callable[[], T]) -> T:
    """Return `work()`, like `asyncio.to_thread`, but from a thread that neither loop nor interpreter waits for at exit.

    When the caller is cancelled, the thread continues and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_result(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def set_exception(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop was closed before the work ended
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                loop.call_soon_threadsafe(set_exception, error)
            else:
                loop.call_soon_threadsafe(set_result, result)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="loramux-blocking-work", daemon=True).start()
    return await future
