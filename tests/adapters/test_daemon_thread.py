import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from loramux_adapters.daemon_thread import run_in_daemon_thread


async def test_the_result_or_the_error_of_the_work_is_passed_on() -> None:
    assert await run_in_daemon_thread(lambda: 7, name="test") == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_daemon_thread(lambda: 1 // 0, name="test")


async def test_the_work_runs_in_a_daemon_thread_with_the_caller_s_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("value")

    def work() -> tuple[bool, str, str]:
        thread = threading.current_thread()
        return thread.daemon, thread.name, variable.get()

    assert await run_in_daemon_thread(work, name="test") == (True, "test", "value")


async def test_a_cancelled_caller_does_not_wait_and_the_late_result_is_dropped() -> None:
    started, may_end, ended = asyncio.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        may_end.wait(30)
        loop.call_soon_threadsafe(loop.call_soon, ended.set)

    task = asyncio.create_task(run_in_daemon_thread(work, name="test"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()
    await ended.wait()


BLOCKED = """
import asyncio, threading
from loramux_adapters.daemon_thread import run_in_daemon_thread

async def main():
    started = threading.Event()
    task = asyncio.create_task(run_in_daemon_thread(lambda: (started.set(), threading.Event().wait()), name="test"))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()

asyncio.run(main())
print("ended")
"""


def test_neither_the_loop_nor_the_interpreter_waits_for_blocked_work() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "ended\n"
