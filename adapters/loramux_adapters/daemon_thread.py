"""Blocking work in a daemon thread, for work that may take long or wait for a remote host."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Return `work()`, like `asyncio.to_thread`, but neither event loop nor interpreter waits for the thread at exit.

    If the caller is cancelled, the thread continues and its result is dropped.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # not cancellable any more: the thread always sets it

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller gets every error
            future.set_exception(error)

    Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True).start()
    return await asyncio.wrap_future(future)
