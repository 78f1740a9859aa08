"""Progress bars for download libraries that report to a callback and enforce a size limit."""

import io
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

from loramux_adapters.intake.content import file_too_large
from loramux_adapters.intake.sources import ReportProgress

SizeCheck = Callable[[int], None]
"""Called with the announced or received number of bytes; it raises an error to end the download."""


def size_check(name: str, max_bytes: int) -> SizeCheck:
    """Return a check that raises InvalidAdapter if the file `name` has more than `max_bytes` bytes."""

    def check(size: int) -> None:
        if size > max_bytes:
            raise file_too_large(name, max_bytes, size)

    return check


def progress_bar_class(
    label: str, report_progress: ReportProgress, check: SizeCheck = lambda _: None
) -> "type[tqdm[Any]]":
    """Return a tqdm class that calls `report_progress` about twice per second, and `check` at each update."""

    class Bar(_ReportingBar):
        def report(self, amounts: str) -> None:
            report_progress(f"{label}: {amounts}")

        def check(self, size: int) -> None:
            check(size)

    return Bar


class _ReportingBar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """Reports bytes only: libraries create bars for other units as well."""

    # Start no thread that redraws stalled bars.
    monitor_interval = 0

    def report(self, amounts: str) -> None:
        raise NotImplementedError

    def check(self, size: int) -> None:
        raise NotImplementedError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A bar that is disabled, for example by an environment variable of the library, would not count.
        super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.5, "disable": False})
        self._check(self.n)

    def update(self, n: float | None = 1) -> bool | None:
        self._check(self.n + (n or 0))
        return super().update(n)

    # huggingface_hub reports transferred bytes separately to a bar with these two methods. With Xet storage they may
    # exceed the file's size, and for other bars the library would announce an estimate as the total.
    def update_transfer(self, n: float | None = 1) -> None:
        pass

    def set_transfer_postfix_str(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def display(self, *_args: Any, **_kwargs: Any) -> None:
        if self.unit == "B" and self.n and self.total:
            self.report(f"{tqdm.format_sizeof(self.n)}B of {tqdm.format_sizeof(self.total)}B")

    def _check(self, received: float) -> None:
        if self.unit == "B":
            self.check(int(max(received, self.total or 0)))
