"""Errors of training files and fine-tuning jobs.

AdapterError                  adapter_error
├── FileNotFound              file_not_found
├── FileInUse                 file_in_use
├── InvalidFile               file_invalid
├── FileTooLarge              file_too_large
├── UploadNotFound            upload_not_found
├── WrongUploadState          upload_state_invalid
├── JobNotFound               job_not_found
├── WrongJobState             job_state_invalid
├── InvalidJob                job_invalid
├── QueueFull                 job_queue_full
├── IdempotencyKeyReused      idempotency_key_reused
├── EvaluationFailed          trial_failed
├── SelfTestFailed            self_test_failed
├── EngineSleepFailed         engine_sleep_failed
└── TransientError
    ├── EngineBusy            engine_busy
    └── EngineLost            engine_lost

Jobs also fail with TrainingError and its subclasses (finetuning/errors.py).
"""

# ruff: noqa: N818 - each name says what happened; the tree above shows that it is an error.

from loramux_adapters.errors import AdapterError, TransientError


class FileNotFound(AdapterError):
    """No file has this id."""

    code = "file_not_found"


class FileInUse(AdapterError):
    """A job that has not ended needs the file."""

    code = "file_in_use"


class InvalidFile(AdapterError):
    """An upload that can't be used; `param` is the field of the form that is wrong."""

    code = "file_invalid"

    def __init__(self, message: str, param: str = "file") -> None:
        super().__init__(message)
        self.param = param


class FileTooLarge(AdapterError):
    """A file that exceeds MAX_FILE_BYTES."""

    code = "file_too_large"


class UploadNotFound(AdapterError):
    """No upload has this id."""

    code = "upload_not_found"


class WrongUploadState(AdapterError):
    """The upload is completed, cancelled or expired, or has as many bytes as it may have."""

    code = "upload_state_invalid"


class JobNotFound(AdapterError):
    """No job has this id."""

    code = "job_not_found"


class WrongJobState(AdapterError):
    """The job's state does not allow the operation."""

    code = "job_state_invalid"


class InvalidJob(AdapterError):
    """A job that can't be run; `param` is the field of the request that is wrong."""

    code = "job_invalid"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class QueueFull(AdapterError):
    """The maximum number of jobs is waiting."""

    code = "job_queue_full"


class IdempotencyKeyReused(AdapterError):
    """A request has the key of an earlier one, and asks for something else."""

    code = "idempotency_key_reused"


class EvaluationFailed(AdapterError):
    """The base and a job's adapter could not be compared."""

    code = "trial_failed"


class SelfTestFailed(AdapterError):
    """An adapter has learned its training answers, but does not give them when it is served."""

    code = "self_test_failed"


class EngineSleepFailed(AdapterError):
    """The engine could not free its GPU memory for a job."""

    code = "engine_sleep_failed"


class EngineBusy(TransientError):
    """The engine could not free its GPU memory, because requests run for too long; new ones are served again."""

    code = "engine_busy"


class EngineLost(TransientError):
    """The engine failed, or could not take its GPU memory back: the server exits, and the next one resumes the job."""

    code = "engine_lost"
