"""Validates the files of new jobs as soon as they are created, also while another job is trained."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.finetuning.jobs.change_signal import ChangeSignal
from loramux_adapters.finetuning.jobs.errors import JobNotFound, WrongJobState
from loramux_adapters.finetuning.jobs.failures import failure_of, is_transient
from loramux_adapters.finetuning.jobs.forecast import UNKNOWN
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.plans import queue_event
from loramux_adapters.finetuning.jobs.states import JobState

_log = logging.getLogger(__name__)


@dataclass
class FileValidator:
    """Plans new jobs in the order of their creation, and moves them to queued or failed.

    Servers that share a database may validate the same job at the same time: the first move counts.
    """

    planner: JobPlanner
    now: Callable[[], float]
    on_queued: Callable[[], None]
    """Called after a job was queued."""
    retry_seconds: float
    changes: ChangeSignal = field(default_factory=ChangeSignal)

    async def run_forever(self) -> None:
        """Validate jobs; an error that may pass is retried."""
        while True:
            try:
                await self._validate_all()
                await self.changes.wait()
            except Exception:  # noqa: BLE001 - otherwise no job would be validated until the server restarts
                _log.exception("the files of fine-tuning jobs can't be validated now")
                await asyncio.sleep(self.retry_seconds)

    async def _validate_all(self) -> None:
        while job := await asyncio.to_thread(self.planner.registry.next_unvalidated, self.planner.base.name):
            await self._validate(job)

    async def _validate(self, job: JobRecord) -> None:
        """Validate one job. A job that a client moved or another server validated meanwhile stays as it is.

        Raises:
            Exception: an error that may pass.
        """
        try:
            with suppress(WrongJobState, JobNotFound):
                await asyncio.to_thread(self._plan_and_move, job)
                self.on_queued()
        except Exception as error:
            if is_transient(error):
                raise
            event, details = failure_of(job, error)
            with suppress(WrongJobState):
                await asyncio.to_thread(self._move, job, JobState.FAILED, event, error=details)

    def _plan_and_move(self, job: JobRecord) -> None:
        plan, events = self.planner.plan_job(job)
        place = queue_event(self.planner.forecasts(self.now()).get(job.id, UNKNOWN))
        self._move(
            job,
            JobState.QUEUED,
            *events,
            JobEvent("Files validated, moving job to queued state"),
            *([place] if place else []),
            recipe=plan.recipe.model_dump(mode="json"),
            timings=self.planner.timings(plan).model_dump(mode="json"),
        )

    def _move(self, job: JobRecord, state: JobState, *events: JobEvent, **values: Any) -> None:
        self.planner.registry.move(job.id, state, self.now(), *events, only_from=JobState.VALIDATING_FILES, **values)
