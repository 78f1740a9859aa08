"""How a download counts what arrives: for people to see, and for an end to be put to it."""

import io
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

from loramux_adapters.intake.content import too_large
from loramux_adapters.intake.sources import Tell

Check = Callable[[int], None]
"""Is given a number of bytes, announced or arrived, and raises what ends the download."""


def at_most(name: str, most: int) -> Check:
    """Return what refuses more than `most` bytes of the file `name`, by InvalidAdapter."""

    def check(size: int) -> None:
        if size > most:
            raise too_large(name, most, size)

    return check


def progress_bar(label: str, tell: Tell, check: Check = lambda _: None) -> "type[tqdm[Any]]":
    """A class of progress bars that tell instead of drawing, about twice a second, and ask `check` at each step."""

    class Bar(_Bar):
        def tell(self, amounts: str) -> None:
            tell(f"{label}: {amounts}")

        def check(self, size: int) -> None:
            check(size)

    return Bar


class _Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """Libraries make bars of other things than bytes as well; those do nothing."""

    # No thread to redraw a bar that nobody sees.
    monitor_interval = 0

    def tell(self, amounts: str) -> None:
        raise NotImplementedError

    def check(self, size: int) -> None:
        raise NotImplementedError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A bar that is switched off, as a user may have told the library to do, would not count.
        super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.5, "disable": False})
        self._check(self.n)

    def update(self, n: float | None = 1) -> bool | None:
        self._check(self.n + (n or 0))
        return super().update(n)

    # The Hub's library tells the bytes on the wire apart from the file's to a bar that has these two. With its Xet
    # storage they may be more than the file's, and to any other bar it would announce a guess as their total.
    def update_transfer(self, n: float | None = 1) -> None:
        pass

    def set_transfer_postfix_str(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def display(self, *_args: Any, **_kwargs: Any) -> None:
        if self.unit == "B" and self.n and self.total:
            self.tell(f"{tqdm.format_sizeof(self.n)}B of {tqdm.format_sizeof(self.total)}B")

    def _check(self, arrived: float) -> None:
        if self.unit == "B":
            self.check(int(max(arrived, self.total or 0)))
