"""Where weights come from, one module a kind of source."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

Tell = Callable[[str], None]
"""Gets a line of words for people while something long goes on, about twice a second at most."""


class Source(Protocol):
    """Where an adapter's files come from."""

    @property
    def origin(self) -> dict[str, str]:
        """What to remember of it, known once the files were fetched; it holds no secret."""

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Copy the files named in `largest`, each of at most so many bytes, to the folder `into`; runs in a thread."""
