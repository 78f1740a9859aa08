"""Adapters from files that a client sent, which lie on disk or in memory as open files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import ADAPTER_FILES, check_listing, copy_bounded
from loramux_adapters.intake.sources import Tell


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Open files by the name that the client gave them; a name is compared and never made into a path."""

    files: Mapping[str, BinaryIO]

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "upload"}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Copy the files named in `largest`, each of at most so many bytes, to `into`.

        A file that no adapter has is refused by its name. Raises InvalidAdapter, OSError.
        """
        check_listing(self.files)
        for name in self.files:
            if name not in ADAPTER_FILES:
                raise InvalidAdapter("an adapter has no such file", where=name, expected=" and ".join(ADAPTER_FILES))
        tell("storing the upload")
        for name, most in largest.items():
            copy_bounded(self.files[name], into / name, most)
