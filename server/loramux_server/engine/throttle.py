"""Throttles background work in short bursts, to leave the CPU to the model; used in the API process and the workers.

On a CPU, each step of the model waits hundreds of times for its slowest thread. A background thread that takes a core
from one of them for a scheduler slice, at any priority, makes that step two or three times as long.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BURST_SECONDS = 0.0015
PAUSE_SECONDS = 0.006


@contextmanager
def throttled(*, enabled: bool) -> Iterator[None]:
    """Pause this thread regularly inside the context, if `enabled`.

    The profiling hook pauses at function calls, so the code of libraries is throttled too. A single call that takes
    longer than a burst is not interrupted.
    """
    if not enabled:
        yield
        return
    until = time.perf_counter() + BURST_SECONDS

    def at_call(*_: Any) -> None:
        nonlocal until
        if time.perf_counter() > until:
            time.sleep(PAUSE_SECONDS)
            until = time.perf_counter() + BURST_SECONDS

    before = sys.getprofile()
    sys.setprofile(at_call)
    try:
        yield
    finally:
        sys.setprofile(before)
