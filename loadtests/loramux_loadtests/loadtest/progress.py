"""Live progress of a load test on standard error."""

import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loramux_loadtests.loadtest.runner import LiveCounts

LOG_INTERVAL_S = 10.0
"""How often a line is printed where standard error is not a terminal."""


class ProgressLine:
    """A line on standard error: requests sent, in flight and failed, and the recent median TTFT."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._counts: Callable[[], LiveCounts] = LiveCounts
        self._title = ""
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, title: str, counts: Callable[[], LiveCounts] = LiveCounts) -> None:
        """Start a step: its title, and a function that returns its counts."""
        self._title, self._counts = title, counts
        self._started = self._last_line = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(Text(title))
        self.refresh()

    def print_line(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(Text(text))

    def refresh(self) -> None:
        """Update the line."""
        now = time.monotonic()
        line = Text(f"{self._title}: {format_counts(self._counts(), now - self._started)}")
        if self._console.is_terminal:
            self._live.update(line, refresh=True)
        elif now - self._last_line >= LOG_INTERVAL_S:
            self._last_line = now
            self._console.print(line)


def format_counts(counts: LiveCounts, seconds: float) -> str:
    """Format the counts of a load for people."""
    recent = f"{median(counts.ttfts) * 1000:.0f} ms" if counts.ttfts else "-"
    rate = counts.sent / seconds if seconds > 0 else 0.0
    return (
        f"{seconds:.0f} s, {counts.sent} sent ({rate:.1f}/s), {counts.in_flight} in flight, "
        f"{counts.errors} errors, p50 TTFT {recent}"
    )
