"""Works on the jobs, one at a time: trains, and hands on what comes of it.

The registry is the truth. Whoever cancels or pauses a job moves it there; the supervisor sees that it moved, and stops
the trainer. A server that starts goes on with the job that was running, from what its trainer last saved.
"""

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import AdapterError, PassingError, StoreError
from loramux_adapters.finetuning.errors import NoRoomLeft, TrainerCrashed
from loramux_adapters.finetuning.events import Checkpointed, Paused
from loramux_adapters.finetuning.jobs.errors import JobNotFound, WrongJobState
from loramux_adapters.finetuning.jobs.event_log import Diary
from loramux_adapters.finetuning.jobs.models import JobRecord, Note
from loramux_adapters.finetuning.jobs.observer import Observer, Unobserved
from loramux_adapters.finetuning.jobs.planning import Plans
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import Delivery
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.trainer_lock import seat
from loramux_adapters.finetuning.jobs.trainer_process import Priority, trainer

MOST_ATTEMPTS = 3
"""So often a trainer may crash without having saved anything new before its job fails."""
_log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_PAUSE_AFTER_FAULT, _LONGEST_PAUSE = 5.0, 300.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


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
    _faults: int = 0
    """One after the other, of which none was the job's own."""

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
        """Work for ever: whatever fails, here or in a job, is told in the log and tried again."""
        while True:
            try:
                async with seat(self.plans.folder / "seat") as taken:
                    await asyncio.to_thread(self._sweep)
                    while True:
                        await self._next(taken)
            except Exception:  # noqa: BLE001 - else no job would ever be worked on again
                _log.exception("the fine-tuning jobs can't be worked on now")
            await asyncio.sleep(_PAUSE_AFTER_FAULT)

    async def _next(self, taken: int) -> None:
        job = await asyncio.to_thread(self.registry.next, self.plans.base.name)
        await self._count()
        await (self._hear() if job is None else self._observed(job, taken))

    def _sweep(self) -> None:
        """Remove what jobs left that ended while nobody looked."""
        for job in self.plans.kept():
            with suppress(JobNotFound):  # another database's, maybe
                if self.registry.get(job).state.has_ended:
                    self.plans.clear(job)

    async def _observed(self, job: JobRecord, taken: int) -> None:
        self.observer.began(job)
        try:
            await self._on(job, taken)
        finally:
            await asyncio.shield(asyncio.to_thread(self._stopped, job.id))

    def _stopped(self, job: str) -> None:
        try:
            record = self.registry.get(job)
            if record.state.has_ended:
                self.plans.clear(job)
            self.observer.stopped(record)
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
            self._faults = 0
        except WrongJobState:
            pass  # paused or cancelled: what was made stays
        except TrainerCrashed as error:
            await self._retry_or_fail(job, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs after this one must have their turn
            await (self._put_off if _may_pass(error) else self._fail)(job, error)

    async def _begin(self, job: JobRecord) -> JobRecord:
        """Look at the files, choose what was left open, and let the job run."""
        if job.state is JobState.VALIDATING_FILES:
            recipe, notes = await asyncio.to_thread(self.plans.make, job)
            notes.insert(0, Note("Files validated, moving job to queued state"))
            chosen = recipe.model_dump(mode="json")
            # Not from `paused`, which also leads there: somebody paused it meanwhile.
            await self._move(job, JobState.QUEUED, *notes, only_from=JobState.VALIDATING_FILES, recipe=chosen)
        values = {} if job.started_at else {"started_at": self.now()}
        return await self._move(job, JobState.RUNNING, Note("Fine-tuning job started"), **values)

    async def _train(self, job: JobRecord, taken: int) -> None:
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

    async def _hear(self, *others: asyncio.Task[None], seconds: float = _POLL_SECONDS) -> None:
        """Wait for news, for one of the others, or for the time to look again."""
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({news, *others}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            self._news.clear()

    async def _retry_or_fail(self, job: JobRecord, error: TrainerCrashed) -> None:
        """Let a crashed job be taken up again, unless it gets nowhere."""
        attempts = (await asyncio.to_thread(self.registry.get, job.id)).attempts + 1
        if attempts >= MOST_ATTEMPTS:
            await self._fail(job, error)
            return
        note = Note(f"The trainer crashed and is started again: {_first_line(error)}", "warn")
        with suppress(WrongJobState):
            await asyncio.to_thread(self.registry.enter, job.id, self.now(), note, attempts=attempts)

    async def _put_off(self, job: JobRecord, error: Exception) -> None:
        """Wait, longer each time, for what is not the job's fault to pass: it has not lost anything yet."""
        _log.warning("job %s waits", job.id, exc_info=error)
        if not self._faults:
            words = _first_line(error) if isinstance(error, AdapterError) else "No space is left on the server's disk."
            note = Note(f"The job waits: {words}", "warn")
            with suppress(StoreError, WrongJobState):
                await asyncio.to_thread(self.registry.enter, job.id, self.now(), note)
        await self._hear(seconds=min(_PAUSE_AFTER_FAULT * 2**self._faults, _LONGEST_PAUSE))
        self._faults = min(self._faults + 1, 10)

    async def _fail(self, job: JobRecord, error: Exception) -> None:
        """Enter why a job can't be done; the trainer's own words are in its log, because they name paths."""
        code, words = "server_error", "The server could not do the job; its log says why."
        if isinstance(error, AdapterError):
            code, words = error.code, _first_line(error)
        else:
            _log.error("job %s failed", job.id, exc_info=error)
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


def _may_pass(error: Exception) -> bool:
    """Whether it is the server's trouble of the moment: its database, its disk, an engine that is full."""
    no_room = isinstance(error, OSError) and error.errno in _NO_ROOM
    return no_room or isinstance(error, (StoreError, PassingError, NoRoomLeft))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
