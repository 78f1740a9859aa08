"""The output of a fine-tuning job as an adapter source."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.sources.folder import FolderSource


@dataclass(frozen=True, slots=True)
class JobSource:
    """The adapter of the job `job` after the step `step`, in `folder`, a path that clients never see."""

    folder: Path
    job: str
    step: int

    @property
    def origin(self) -> dict[str, str]:
        """The origin that the registry stores with the version."""
        return {"type": "job", "job": self.job, "step": str(self.step)}

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Copy the files to the folder `into`; see Source."""
        FolderSource(self.folder, (self.folder,)).fetch(into, max_bytes, report_progress)
