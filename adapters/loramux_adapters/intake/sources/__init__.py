"""The sources of adapter files, one module per kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

ReportProgress = Callable[[str], None]
"""Called with a line of text about the progress of a long operation, at most about twice per second."""


class Source(Protocol):
    """A place from which an adapter's files are fetched."""

    @property
    def origin(self) -> dict[str, str]:
        """The origin to record in the registry, complete after `fetch`; it contains no secrets."""

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Copy the adapter's files to the folder `into`, which stays free of others; see `selection.copy_adapter`.

        `max_bytes` maps the name of each file to its size limit. The config is copied before the weights. It blocks,
        and is called in a thread.

        Raises:
            AdapterError: the source is unavailable or not allowed, or a file is missing or too large.
            OSError: the disk failed.
        """
