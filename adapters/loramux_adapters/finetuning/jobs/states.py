"""What a job can be, and what it can become."""

from enum import StrEnum


class JobState(StrEnum):
    """OpenAI's states of a fine-tuning job."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    """It has, or is about to get, the trainer; a server that starts goes on with it."""
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def can_become(self, other: "JobState") -> bool:
        """Whether this step exists."""
        return other in _STEPS[self]

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes after it."""
        return not _STEPS[self]

    @property
    def waits(self) -> bool:
        """Whether it takes one of the queue's places."""
        return self in {JobState.VALIDATING_FILES, JobState.QUEUED}


_STEPS: dict[JobState, set[JobState]] = {
    JobState.VALIDATING_FILES: {JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    JobState.QUEUED: {JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    JobState.RUNNING: {JobState.SUCCEEDED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    # A job that was paused before its files were looked at has that still before it.
    JobState.PAUSED: {JobState.QUEUED, JobState.VALIDATING_FILES, JobState.CANCELLED},
    JobState.SUCCEEDED: set(),
    JobState.FAILED: set(),
    JobState.CANCELLED: set(),
}
