"""Works on the jobs, one at a time: trains, and hands on what comes of it.

The registry is the truth. Whoever cancels or pauses a job moves it there; the supervisor sees that it moved, and stops
the trainer. A server that starts goes on with the job that was running, from what its trainer last saved.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import AdapterError, StoreError
from loramux_adapters.jobs.child import Priority, trainer
from loramux_adapters.jobs.delivery import Delivery
from loramux_adapters.jobs.diary import Diary
from loramux_adapters.jobs.errors import WrongJobState
from loramux_adapters.jobs.observer import Observer, Unobserved
from loramux_adapters.jobs.plans import Plans
from loramux_adapters.jobs.records import JobRecord, Note
from loramux_adapters.jobs.registry import JobRegistry
from loramux_adapters.jobs.seat import seat
from loramux_adapters.jobs.states import JobState
from loramux_adapters.training.errors import TrainerCrashed
from loramux_adapters.training.events import Checkpointed, Paused

MOST_ATTEMPTS = 3
"""So often a trainer may crash without having saved anything new before its job fails."""
_log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_PAUSE_AFTER_FAULT = 5.0


@dataclass
class Supervisor:
    """Works on what the registry has, while the context of `working` lasts."""

    registry: JobRegistry
    plans: Plans
    delivery: Delivery
    priority: Priority = "idle"
    observer: Observer = field(default_factory=Unobserved)
    now: Callable[[], float] = time.time
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look at the registry now: a job was added or moved."""
        self._news.set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work; at the context's end the trainer saves where it is, and its job goes on with the next server."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _work(self) -> None:
        async with seat(self.plans.folder / "seat") as taken:
            while True:
                try:
                    job = await asyncio.to_thread(self.registry.next)
                    await self._count()
                    if job is not None:
                        await self._observed(job, taken)
                        continue
                except StoreError:  # the database is away: a later look may find it
                    await asyncio.sleep(_PAUSE_AFTER_FAULT)
                await self._hear()

    async def _observed(self, job: JobRecord, taken: int) -> None:
        self.observer.began(job)
        try:
            await self._on(job, taken)
        finally:
            await asyncio.shield(asyncio.to_thread(self._stopped, job.id))

    def _stopped(self, job: str) -> None:
        try:
            self.observer.stopped(self.registry.get(job))
        except StoreError:  # it is entered when the job is worked on again, if it is
            _log.exception("what job %s cost could not be entered", job)

    async def _count(self) -> None:
        counts = await asyncio.to_thread(self.registry.counts)
        self.observer.waiting(sum(count for state, count in counts.items() if state.waits))

    async def _on(self, job: JobRecord, taken: int) -> None:
        """Bring a job to its end, or to where somebody else moved it; raises StoreError."""
        try:
            if job.state is not JobState.RUNNING:
                job = await self._begin(job)
            await self._unless_moved(job, self._train(job, taken))
            await self._unless_moved(job, self._deliver(job))
        except WrongJobState:
            pass  # paused or cancelled: what was made stays
        except StoreError:
            raise
        except TrainerCrashed as error:
            await self._retry_or_fail(job, error)
        except (AdapterError, OSError) as error:
            await self._fail(job, error)

    async def _begin(self, job: JobRecord) -> JobRecord:
        """Look at the files, choose what was left open, and let the job run."""
        if job.state is JobState.VALIDATING_FILES:
            recipe, notes = await asyncio.to_thread(self.plans.make, job)
            notes.insert(0, Note("Files validated, moving job to queued state"))
            await self._move(job, JobState.QUEUED, *notes, recipe=recipe.model_dump(mode="json"))
        values = {} if job.started_at else {"started_at": self.now()}
        return await self._move(job, JobState.RUNNING, Note("Fine-tuning job started"), **values)

    async def _train(self, job: JobRecord, taken: int) -> None:
        attempts = {"attempts": job.attempts + 1}
        await asyncio.to_thread(self.registry.enter, job.id, self.now(), **attempts)
        run = await asyncio.to_thread(self.plans.run, job)
        diary = Diary(self.registry, job, self.observer, self.now)
        async with trainer(run, self.plans.log(job), taken, self.priority) as running:
            async for event in running.events():
                await diary.write(event)
                if isinstance(event, Checkpointed):
                    await self.delivery.checkpoint(job, run.output / event.folder, event.step, diary.progress)
                if isinstance(event, Paused):
                    raise TrainerCrashed("somebody stopped the trainer, and it was not this server")

    async def _deliver(self, job: JobRecord) -> None:
        job = await asyncio.to_thread(self.registry.get, job.id)
        run = await asyncio.to_thread(self.plans.run, job)
        await self.delivery.result(job, run, self.plans.results(job))

    async def _unless_moved(self, job: JobRecord, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, and give it up when the job was moved meanwhile; raises WrongJobState then."""
        working = asyncio.create_task(work)
        try:
            while not working.done():
                await self._hear(working)
                state = (await asyncio.to_thread(self.registry.get, job.id)).state
                if state is not JobState.RUNNING and not working.done():
                    raise WrongJobState(f"The job is {state.value}.")
            await working
        finally:
            working.cancel()
            await _over(working)

    async def _hear(self, *others: asyncio.Task[None]) -> None:
        """Wait for news, for one of the others, or for the time to look again."""
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({news, *others}, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            self._news.clear()

    async def _retry_or_fail(self, job: JobRecord, error: TrainerCrashed) -> None:
        """Let a crashed job be taken up again, unless it gets nowhere."""
        attempts = (await asyncio.to_thread(self.registry.get, job.id)).attempts
        if attempts >= MOST_ATTEMPTS:
            await self._fail(job, error)
            return
        note = Note(f"The trainer crashed and is started again: {_first_line(error)}", "warn")
        with suppress(WrongJobState):
            await asyncio.to_thread(self.registry.enter, job.id, self.now(), note)

    async def _fail(self, job: JobRecord, error: AdapterError | OSError) -> None:
        """Enter why a job can't be done; the trainer's own words are in its log, because they name paths."""
        code, words = "server_error", "The server could not read or write the job's files."
        if isinstance(error, AdapterError):
            code, words = error.code, _first_line(error)
        reason = {"code": code, "message": words, "param": getattr(error, "param", None)}
        with suppress(WrongJobState):
            await self._move(job, JobState.FAILED, Note(f"The job failed: {words}", "error"), error=reason)

    async def _move(self, job: JobRecord, state: JobState, *notes: Note, **values: Any) -> JobRecord:
        return await asyncio.to_thread(self.registry.move, job.id, state, self.now(), *notes, **values)


async def _over(task: asyncio.Task[None]) -> None:
    """Wait until a task has ended, however; who is cancelled meanwhile hears of it after that, and not never."""
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            is_cancelled = True
    if not task.cancelled():
        task.exception()  # looked at, so that nobody misses it
    if is_cancelled:
        raise asyncio.CancelledError


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
