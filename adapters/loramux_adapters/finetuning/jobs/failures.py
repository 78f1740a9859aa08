"""Decides what a job's failure leads to: a restart of its trainer, a later retry, or the job's end."""

import asyncio
import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from loramux_adapters.errors import AdapterError, StoreError, TransientError
from loramux_adapters.finetuning.errors import DiskFull, TrainerCrashed
from loramux_adapters.finetuning.jobs.change_signal import ChangeSignal
from loramux_adapters.finetuning.jobs.errors import EngineBusy, WrongJobState
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState

MAX_ATTEMPTS = 3
"""Crashes of a trainer without a newly saved state after which its job fails."""
MAX_RETRY_SECONDS = 300.0
_MAX_DOUBLINGS = 10
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_log = logging.getLogger(__name__)


@dataclass
class JobFailures:
    """Handles the errors of jobs; pauses before retries double from `retry_seconds` to MAX_RETRY_SECONDS."""

    registry: JobRegistry
    changes: ChangeSignal
    now: Callable[[], float]
    retry_seconds: float
    _retries: int = 0
    """Consecutive retries for errors that were not the job's fault."""

    def reset(self) -> None:
        """Start with the shortest pause again: a job succeeded."""
        self._retries = 0

    async def handle(self, job: JobRecord, error: Exception) -> None:
        """Record the error in the job; for an error that may pass, wait before returning.

        Raises:
            StoreError: the registry can't be read or written.
        """
        match error:
            case WrongJobState():  # paused or cancelled: what was made remains
                pass
            case TrainerCrashed():
                await self._restart_or_fail(job, error)
            case _ if is_transient(error):
                await self._wait_for_retry(job, error)
            case _:
                await self._fail(job, error)

    async def _restart_or_fail(self, job: JobRecord, error: TrainerCrashed) -> None:
        """Let the crashed trainer be started again, unless it makes no progress."""
        attempts = (await asyncio.to_thread(self.registry.get, job.id)).attempts + 1
        if attempts >= MAX_ATTEMPTS:
            await self._fail(job, error)
            return
        event = JobEvent(f"The trainer crashed and is started again: {_first_line(error)}", "warn")
        with suppress(WrongJobState):
            await asyncio.to_thread(self.registry.update_running, job.id, self.now(), event, attempts=attempts)

    async def _wait_for_retry(self, job: JobRecord, error: Exception) -> None:
        _log.warning("job %s waits", job.id, exc_info=error)
        if not self._retries:
            reason = _first_line(error) if isinstance(error, AdapterError) else "No space is left on the server's disk."
            with suppress(StoreError, WrongJobState):
                event = JobEvent(f"The job waits: {reason}", "warn")
                await asyncio.to_thread(self.registry.update_running, job.id, self.now(), event)
        seconds = self.retry_seconds * 2**self._retries
        if isinstance(error, EngineBusy):  # else requests would be refused for most of the time
            seconds = max(seconds, error.retry_after)
        await self.changes.wait(seconds=min(seconds, MAX_RETRY_SECONDS))
        self._retries = min(self._retries + 1, _MAX_DOUBLINGS)

    async def _fail(self, job: JobRecord, error: Exception) -> None:
        """Move the job to failed."""
        event, details = failure_of(job, error)
        with suppress(WrongJobState):
            await asyncio.to_thread(self.registry.move, job.id, JobState.FAILED, self.now(), event, error=details)


def failure_of(job: JobRecord, error: Exception) -> tuple[JobEvent, dict[str, str | None]]:
    """Return the event and the details of a failure; the trainer's output stays in its log, because it names paths."""
    code, reason = "server_error", "The server could not do the job; see its log for the reason."
    if isinstance(error, AdapterError):
        code, reason = error.code, _first_line(error)
    else:
        _log.error("job %s failed", job.id, exc_info=error)
    details = {"code": code, "message": reason, "param": getattr(error, "param", None)}
    return JobEvent(f"The job failed: {reason}", "error"), details


def is_transient(error: Exception) -> bool:
    """Whether the server is to blame, for now: its database, its disk, or an engine without a free slot."""
    is_disk_full = isinstance(error, OSError) and error.errno in _DISK_FULL
    return is_disk_full or isinstance(error, (StoreError, TransientError, DiskFull))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
