"""How a download counts what arrives: for people to see, and for an end to be put to it."""

import io
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

from loramux_adapters.content import too_large
from loramux_adapters.sources import Tell

Check = Callable[[int], None]
"""Is given a number of bytes, announced or arrived, and raises what ends the download."""


def at_most(name: str, most: int) -> Check:
    """Return what refuses more than `most` bytes of the file `name`, by InvalidAdapter."""

    def check(size: int) -> None:
        if size > most:
            raise too_large(name, most, size)

    return check


def progress_bar(label: str, tell: Tell, check: Check | None = None) -> "type[tqdm[Any]]":
    """A class of progress bars that tell instead of drawing, about twice a second, and ask `check` at each step.

    Libraries make bars of other things than bytes as well; those are silent.
    """

    class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
        # No thread to redraw a bar that nobody sees.
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # A bar that is switched off, as a user may have told the library to do, would not count.
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.5, "disable": False})
            self._check(self.n)

        def update(self, n: float | None = 1) -> bool | None:
            self._check(self.n + (n or 0))
            return super().update(n)

        def display(self, *_args: Any, **_kwargs: Any) -> None:
            if self.unit == "B" and self.n and self.total:
                tell(f"{label}: {tqdm.format_sizeof(self.n)}B of {tqdm.format_sizeof(self.total)}B")

        def _check(self, arrived: float) -> None:
            if check and self.unit == "B":
                check(int(max(arrived, self.total or 0)))

    return Bar
