"""Brings one job to its end: plans it, trains it, publishes its results."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Checkpointed, Paused, Started
from loramux_adapters.finetuning.jobs.change_signal import ChangeSignal
from loramux_adapters.finetuning.jobs.engine_memory import EngineMemory, borrowed_memory
from loramux_adapters.finetuning.jobs.errors import WrongJobState
from loramux_adapters.finetuning.jobs.event_log import JobEventLog
from loramux_adapters.finetuning.jobs.failures import JobFailures
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.observer import JobObserver, NullJobObserver
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import ResultPublisher
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.trainer_process import TrainerLauncher

_log = logging.getLogger(__name__)


@dataclass
class JobRunner:
    """Works on one job at a time until it ends, is moved by a client, or has to be retried later."""

    registry: JobRegistry
    planner: JobPlanner
    publisher: ResultPublisher
    launcher: TrainerLauncher = field(default_factory=TrainerLauncher)
    observer: JobObserver = field(default_factory=NullJobObserver)
    changes: ChangeSignal = field(default_factory=ChangeSignal)
    retry_seconds: float = 5.0
    """First pause before a retry; see JobFailures."""
    now: Callable[[], float] = time.time
    engine_memory: EngineMemory | None = None
    """The engine's, if it lends it to trainers."""

    def __post_init__(self) -> None:
        self._failures = JobFailures(self.registry, self.changes, self.now, self.retry_seconds)

    async def run(self, job: JobRecord, lock_fd: int) -> None:
        """Work on a job, and report its start and stop to the observer.

        Raises:
            StoreError: the registry can't be read or written.
        """
        self.observer.started(job)
        try:
            await self._run(job, lock_fd)
            await self._keep_checkpoints(job.id)
        finally:
            await asyncio.shield(asyncio.to_thread(self._report_stopped, job.id))

    async def _run(self, job: JobRecord, lock_fd: int) -> None:
        try:
            if job.state is not JobState.RUNNING:
                job = await self._start(job)
            speeds = await asyncio.to_thread(self.planner.speeds)
            log = JobEventLog(self.registry, job, self.observer, self.now, speeds, self.planner.machine_of)
            await self._unless_moved(job, self._train(job, log, lock_fd))
            await self._unless_moved(job, self._publish(job, log))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next jobs must get their turn
            await self._failures.handle(job, error)
        else:
            self._failures.reset()

    async def _start(self, job: JobRecord) -> JobRecord:
        """Move the job to running."""
        values = {} if job.started_at else {"started_at": self.now()}
        return await self._move(job, JobState.RUNNING, JobEvent("Fine-tuning job started"), **values)

    async def _train(self, job: JobRecord, log: JobEventLog, lock_fd: int) -> None:
        run = await asyncio.to_thread(self.planner.training_run, job)
        if run.recipe:  # before hours of training, not after them
            await self.publisher.library.ensure_rank(run.recipe.rank)
        async with borrowed_memory(self.engine_memory, log) as loan:
            await log.enter("loading")
            async with self.launcher.launch(run, self.planner.folders.path(job), lock_fd) as trainer:
                async for event in trainer.events():
                    await log.record(event)
                    if isinstance(event, Started) and not event.device.startswith("cuda"):
                        await loan.end()
                    if isinstance(event, Checkpointed) and not loan.is_active:  # else published with the result
                        await self.publisher.publish_checkpoint(job, run.output / event.folder, event.step)
                    if isinstance(event, Paused):
                        raise TrainerCrashed("the trainer was stopped, but not by this server")

    async def _publish(self, job: JobRecord, log: JobEventLog) -> None:
        await log.enter("publishing")
        job = await asyncio.to_thread(self.registry.get, job.id)
        run = await asyncio.to_thread(self.planner.training_run, job)
        await self.publisher.publish_result(job, run, self.planner.folders.results(job), log.enter)

    async def _keep_checkpoints(self, job: str) -> None:
        """Publish what a job that was stopped has exported, before its work files are removed."""
        record = await asyncio.to_thread(self.registry.get, job)
        if record.state in (JobState.PAUSED, JobState.CANCELLED, JobState.FAILED):
            try:
                await self.publisher.publish_missed_checkpoints(record, self.planner.folders.output(record))
            except Exception:  # noqa: BLE001 - the engine may have failed too
                _log.exception("not all checkpoints of job %s could be published", job)

    async def _unless_moved(self, job: JobRecord, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; cancel it and raise WrongJobState if a client moves the job meanwhile."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await self.changes.wait(task)
                state = (await asyncio.to_thread(self.registry.get, job.id)).state
                if state is not JobState.RUNNING and not task.done():
                    raise WrongJobState(f"The job is {state.value}.")
            await task
        finally:
            task.cancel()
            await _wait_until_done(task)

    def _report_stopped(self, job: str) -> None:
        try:
            record = self.registry.get(job)
            if record.state.has_ended:
                self.planner.folders.clean(job)
            self.observer.stopped(record)
        except StoreError:  # recorded when the job is next worked on, if it is
            _log.exception("the cost of job %s could not be recorded", job)

    async def _move(self, job: JobRecord, state: JobState, *events: JobEvent, **values: Any) -> JobRecord:
        return await asyncio.to_thread(self.registry.move, job.id, state, self.now(), *events, **values)


async def _wait_until_done(task: asyncio.Task[None]) -> None:
    """Wait until a task is done, however it ends; a cancellation of the caller is raised after that, not lost."""
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            is_cancelled = True
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio doesn't log it as never retrieved
    if is_cancelled:
        raise asyncio.CancelledError
