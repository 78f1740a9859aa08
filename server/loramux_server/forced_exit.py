"""Ends this process and its children after a deadline, whatever still runs in them."""

import contextlib
import os
import threading
import time

import psutil

EXIT_SECONDS = 8.0
"""Seconds that an orderly exit may take, without the saving of a trainer."""
SAVE_SECONDS = 60.0
"""Seconds more while a trainer may save its state."""


def exit_within(seconds: float, code: int) -> None:
    """Exit with `code` after `seconds`, unless the process has exited by then; a thread or library may block that."""

    def force() -> None:
        time.sleep(seconds)
        kill_descendants()
        os._exit(code)

    threading.Thread(target=force, name="forced-exit", daemon=True).start()


def kill_descendants() -> None:
    """Kill every child process, in whatever state it is."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
