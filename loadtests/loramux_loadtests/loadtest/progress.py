"""How a load goes, while it goes."""

import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loramux_loadtests.loadtest.runner import Counts

LINE_EVERY_S = 10.0
"""Where nobody watches, a line is written so often."""


class Watch:
    """A line on standard error: what was sent, what is in flight, what failed, and the recent median TTFT."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._counts: Callable[[], Counts] = Counts
        self._title = ""
        self._begun = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, title: str, counts: Callable[[], Counts] = Counts) -> None:
        """Name what is going on now, and where its counts are."""
        self._title, self._counts = title, counts
        self._begun = self._told = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(Text(title))
        self.show()

    def say(self, words: str) -> None:
        """Write a line that stays."""
        self._console.print(Text(words))

    def show(self) -> None:
        """Bring the line up to date."""
        now = time.monotonic()
        line = Text(f"{self._title}: {told(self._counts(), now - self._begun)}")
        if self._console.is_terminal:
            self._live.update(line, refresh=True)
        elif now - self._told >= LINE_EVERY_S:
            self._told = now
            self._console.print(line)


def told(counts: Counts, seconds: float) -> str:
    """A load so far, in words."""
    recent = f"{median(counts.ttfts) * 1000:.0f} ms" if counts.ttfts else "-"
    rate = counts.sent / seconds if seconds > 0 else 0.0
    return (
        f"{seconds:.0f} s, {counts.sent} sent ({rate:.1f}/s), {counts.in_flight} in flight, "
        f"{counts.errors} errors, p50 TTFT {recent}"
    )
