"""The states of a fine-tuning job and the transitions between them."""

from enum import StrEnum


class JobState(StrEnum):
    """OpenAI's states of a fine-tuning job."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    """The job has the trainer or is about to get it; a server that starts resumes it."""
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def can_become(self, other: "JobState") -> bool:
        """Whether this transition is allowed."""
        return other in _TRANSITIONS[self]

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return not _TRANSITIONS[self]

    @property
    def is_waiting(self) -> bool:
        """Whether the job counts toward the limit of the queue."""
        return self in {JobState.VALIDATING_FILES, JobState.QUEUED}


_TRANSITIONS: dict[JobState, set[JobState]] = {
    JobState.VALIDATING_FILES: {JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    JobState.QUEUED: {JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    JobState.RUNNING: {JobState.SUCCEEDED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED},
    # A job that was paused before its files were validated still has that step to do.
    JobState.PAUSED: {JobState.QUEUED, JobState.VALIDATING_FILES, JobState.CANCELLED},
    JobState.SUCCEEDED: set(),
    JobState.FAILED: set(),
    JobState.CANCELLED: set(),
}
