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
    from_version: str | None = None
    """NAME@DIGEST that the training went on from."""

    @property
    def origin(self) -> dict[str, str]:
        """The origin that the registry stores with the version."""
        origin = {"type": "job", "job": self.job, "step": str(self.step)}
        return origin | ({"from": self.from_version} if self.from_version else {})

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Copy the files to the folder `into`; see Source."""
        FolderSource(self.folder, (self.folder,)).fetch(into, max_bytes, report_progress)
