"""Work in the background that leaves the model its cores: a little at a time, with pauses between.

On a CPU every step of the model waits for its slowest thread, at hundreds of places. Whatever takes a core from one of
them for a scheduler's slice, however low its priority, makes that step two or three times as long.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BURST_SECONDS = 0.0015
PAUSE_SECONDS = 0.006


@contextmanager
def paced(*, gently: bool) -> Iterator[None]:
    """Let this thread pause again and again inside of the context, if it is to go `gently`.

    Any call of a function is a place for a pause, as the profilers' hook tells them all: that way other people's code
    pauses too. What takes longer in one call than a burst is not interrupted.
    """
    if not gently:
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
