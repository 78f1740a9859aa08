"""Progress of long measurements on standard error."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class StepProgress:
    """A progress bar on standard error with the current step; plain lines if it is not a terminal."""

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
        self._started = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def set_total(self, count: int) -> None:
        """Set the number of steps."""
        self._progress.update(self._task, total=count)

    def begin(self, step: str) -> None:
        """Finish the current step and start the next one."""
        self._progress.update(self._task, completed=self._started, description=step)
        self._started += 1
        if not self._console.is_terminal:
            self._console.print(step, highlight=False)
