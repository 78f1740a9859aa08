"""The folders in which jobs are trained: checkpoints, states, results and the trainer's log."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.finetuning.jobs.ids import is_id
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.trainer_process import LOG_FILE


@dataclass(frozen=True)
class WorkFolders:
    """One folder in `root` for each job, by its id."""

    root: Path

    def path(self, job: JobRecord) -> Path:
        """Return the work folder of a job."""
        return self.root / job.id

    def output(self, job: JobRecord) -> Path:
        """Return the folder in which the trainer exports the job's checkpoints and its result."""
        return self.path(job) / "output"

    def initial_adapter(self, job: JobRecord) -> Path:
        """Return the folder of the adapter that the training goes on from."""
        return self.path(job) / "initial-adapter"

    def results(self, job: JobRecord) -> Path:
        """Return the folder in which the job's result files are written before they are stored."""
        return self.path(job) / "results"

    def with_work(self) -> list[str]:
        """Return the ids of the jobs that have work files."""
        return [path.name for path in self.root.glob("*") if is_id(path.name, "ftjob") and _has_work(path)]

    def clean(self, job: str) -> None:
        """Remove all work files of an ended job except the trainer's log; results were copied to where they serve."""
        log = self.root / job / LOG_FILE
        for path in (self.root / job).glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != log:
                path.unlink(missing_ok=True)


def _has_work(folder: Path) -> bool:
    return any(path.name != LOG_FILE for path in folder.glob("*"))
