"""Adapters from uploaded files, which are open files on disk or in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import INDEX_FILE, MLX_WEIGHTS_FILE, check_listing, copy_bounded
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.sources.selection import copy_adapter
from loramux_adapters.intake.weight_index import is_shard_name


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Open files by the names that the client gave them; a name is only compared, never made into a path."""

    files: Mapping[str, BinaryIO]

    @property
    def origin(self) -> dict[str, str]:
        """The origin to record in the registry."""
        return {"type": "upload"}

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Copy the adapter's files to `into`.

        Raises:
            InvalidAdapter: a file is missing, too large or not part of an adapter.
            OSError: the disk failed.
        """
        check_listing(self.files)
        for name in self.files:
            if name not in (*max_bytes, INDEX_FILE, MLX_WEIGHTS_FILE) and not is_shard_name(name):
                raise InvalidAdapter("the file is not part of an adapter", where=name, expected=", ".join(max_bytes))
        report_progress("storing the upload")

        def copy(name: str, limit: int) -> bool:
            if name in self.files:
                copy_bounded(self.files[name], into / name, limit)
            return name in self.files

        copy_adapter(copy, into, max_bytes)
