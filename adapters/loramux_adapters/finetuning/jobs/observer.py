"""The interface through which the supervisor reports on jobs, for metrics and costs."""

from typing import Protocol

from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord


class JobObserver(Protocol):
    """Counts jobs and records what they cost."""

    def queue_changed(self, count: int) -> None:
        """Record the number of waiting jobs."""

    def started(self, job: JobRecord) -> None:
        """Record that work on a job starts, or resumes from its progress."""

    def progressed(self, progress: JobProgress) -> None:
        """Record the progress of the running job."""

    def stopped(self, job: JobRecord) -> None:
        """Record that work on a job stopped, because it ended or for now. Called in a thread.

        Raises:
            StoreError: the costs can't be recorded.
        """


class NullJobObserver:
    """Records nothing."""

    def queue_changed(self, count: int) -> None:
        """Record nothing."""

    def started(self, job: JobRecord) -> None:
        """Record nothing."""

    def progressed(self, progress: JobProgress) -> None:
        """Record nothing."""

    def stopped(self, job: JobRecord) -> None:
        """Record nothing."""
