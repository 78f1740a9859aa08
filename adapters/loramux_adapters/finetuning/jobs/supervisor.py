"""Works on the fine-tuning jobs, one at a time; validates the files of new ones meanwhile.

The registry is the source of truth. A client cancels or pauses a job by moving it there; the supervisor sees the new
state and stops the trainer. A server that starts resumes the job that was running, from its last saved state.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from loramux_adapters.background_tasks import running_task
from loramux_adapters.finetuning.jobs.errors import JobNotFound
from loramux_adapters.finetuning.jobs.file_validator import FileValidator
from loramux_adapters.finetuning.jobs.job_runner import JobRunner
from loramux_adapters.finetuning.jobs.trainer_lock import LOCK_FILE, trainer_lock

_log = logging.getLogger(__name__)


@dataclass
class Supervisor:
    """Picks the next job and has `runner` work on it, while the context of `running` lasts."""

    runner: JobRunner
    restart_seconds: float = 5.0
    """Pause after an error of the supervisor itself."""
    companions: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """Run next to the jobs, until the context ends."""
    trainer_companions: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """Run next to the jobs while this server, of those with the same folder, is the one that trains."""

    def __post_init__(self) -> None:
        runner = self.runner
        self.validator = FileValidator(runner.planner, runner.now, runner.changes.set, self.restart_seconds)

    def check_now(self) -> None:
        """Check the registry now instead of at the next poll: a job was added or moved."""
        self.validator.changes.set()
        self.runner.changes.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on jobs; on leaving, the trainer saves its state, and the next server resumes the job."""
        async with _running([self._run_forever, self.validator.run_forever, *self.companions]):
            yield

    async def _run_forever(self) -> None:
        while True:
            try:
                await self._run_under_lock()
            except Exception:  # noqa: BLE001 - otherwise no job would be worked on until the server restarts
                _log.exception("the fine-tuning jobs can't be worked on now")
            await asyncio.sleep(self.restart_seconds)

    async def _run_under_lock(self) -> None:
        lock = trainer_lock(self.runner.planner.folders.root / LOCK_FILE)
        async with lock as lock_fd, _running(self.trainer_companions):
            while True:
                await self._run_next(lock_fd)

    async def _run_next(self, lock_fd: int) -> None:
        await asyncio.to_thread(self._remove_leftovers)
        job = await asyncio.to_thread(self.runner.registry.next_job, self.runner.planner.base.name)
        await self._report_queue()
        await (self.runner.changes.wait() if job is None else self.runner.run(job, lock_fd))

    def _remove_leftovers(self) -> None:
        """Remove the work files of jobs that ended while no server ran, or before they were trained."""
        for job in self.runner.planner.folders.with_work():
            with suppress(JobNotFound):  # possibly of another database
                if self.runner.registry.get(job).state.has_ended:
                    self.runner.planner.folders.clean(job)

    async def _report_queue(self) -> None:
        counts = await asyncio.to_thread(self.runner.registry.counts)
        self.runner.observer.queue_changed(sum(count for state, count in counts.items() if state.is_waiting))


@asynccontextmanager
async def _running(companions: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for companion in companions:
            await stack.enter_async_context(running_task(companion()))
        yield
