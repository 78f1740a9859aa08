"""Adapters that jobs made, as a source like any other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.intake.sources import Tell
from loramux_adapters.intake.sources.folder import FolderSource


@dataclass(frozen=True, slots=True)
class JobSource:
    """What the job `job` made up to the step `step`; it lies in `folder`, which no client names."""

    folder: Path
    job: str
    step: int

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "job", "job": self.job, "step": str(self.step)}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Copy the files; raises InvalidAdapter, OSError."""
        FolderSource(self.folder, (self.folder,)).fetch(into, largest, tell)
