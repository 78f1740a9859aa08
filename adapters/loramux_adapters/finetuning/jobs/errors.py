"""What can go wrong with files and jobs.

AdapterError                  adapter_error
├── FileNotFound              file_not_found
├── FileInUse                 file_in_use
├── InvalidFile               file_invalid
├── FileTooLarge              file_too_large
├── JobNotFound               job_not_found
├── WrongJobState             job_state_invalid
├── InvalidJob                job_invalid
├── QueueFull                 job_queue_full
└── TrialFailed               trial_failed

Raised beside TrainingError and what is below it (training/errors.py).
"""

# ruff: noqa: N818 - each name says what happened; that it is an error stands in the tree above.

from loramux_adapters.errors import AdapterError


class FileNotFound(AdapterError):
    """No file has this id."""

    code = "file_not_found"


class FileInUse(AdapterError):
    """A job that has not ended needs the file."""

    code = "file_in_use"


class InvalidFile(AdapterError):
    """What was uploaded is no file that we take; `param` is the part of the form that is wrong."""

    code = "file_invalid"

    def __init__(self, message: str, param: str = "file") -> None:
        super().__init__(message)
        self.param = param


class FileTooLarge(AdapterError):
    """A file of more bytes than we take."""

    code = "file_too_large"


class JobNotFound(AdapterError):
    """No job has this id."""

    code = "job_not_found"


class WrongJobState(AdapterError):
    """The job is in a state in which this can't be done with it."""

    code = "job_state_invalid"


class InvalidJob(AdapterError):
    """A job that can't be done; `param` is the field that is wrong."""

    code = "job_invalid"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class QueueFull(AdapterError):
    """So many jobs wait that no more are taken."""

    code = "job_queue_full"


class TrialFailed(AdapterError):
    """The base and a job's adapter could not be compared."""

    code = "trial_failed"
