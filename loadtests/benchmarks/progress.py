"""Showing how far a long measurement is."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """A line on standard error that names the present step and counts those done; plain lines where nobody watches."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("starting", total=None)
        self._begun = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, count: int) -> None:
        """Say how many steps there will be."""
        self._progress.update(self._task, total=count)

    def begin(self, words: str) -> None:
        """End the present step and begin the next one."""
        self._progress.update(self._task, completed=self._begun, description=words)
        self._begun += 1
        if not self._console.is_terminal:
            self._console.print(words, highlight=False)
