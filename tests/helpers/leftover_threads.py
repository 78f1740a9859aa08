"""Threads that would keep the interpreter from exiting after the last test."""

import sys
import threading
import time
import traceback
from concurrent.futures import thread as pool_module


def leftover_threads(wait_seconds: float = 0.0) -> list[threading.Thread]:
    """Return the non-daemon threads, other than the main thread, that are still busy after `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    while (threads := _busy_threads()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads


def describe_thread(thread: threading.Thread) -> str:
    """Return a thread's name and where it is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else "it has just ended\n"
    return f"{thread.name}:\n{stack}"


def _busy_threads() -> list[threading.Thread]:
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [thread for thread in threads if not thread.daemon and not _is_idle(frames.get(thread.ident or 0))]


def _is_idle(frame: object) -> bool:
    """Whether the thread waits for work in a thread pool: those end by themselves when the interpreter exits."""
    return frame is None or getattr(frame, "f_code", None) is pool_module._worker.__code__
