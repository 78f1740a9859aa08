"""Adapters from files that a client sent, which lie on disk or in memory as open files."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loramux_adapters.content import ADAPTER_FILES, check_listing, too_large
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.sources import Tell

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Open files by the name that the client gave them; a name is compared and never made into a path."""

    files: Mapping[str, BinaryIO]

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "upload"}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Copy the files named in `largest`, each of at most so many bytes, to `into`; raises InvalidAdapter."""
        for name in self.files:
            if name not in ADAPTER_FILES:
                raise InvalidAdapter("an adapter has no such file", where=name, expected=" and ".join(ADAPTER_FILES))
        check_listing(self.files)
        tell("storing the upload")
        for name, most in largest.items():
            file = self.files[name]
            size = file.seek(0, 2)
            if size > most:
                raise too_large(name, most, size)
            file.seek(0)
            with (into / name).open("xb") as copy:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
