"""What comes of a job: versions that serve, a comparison with the base, and files that show how it went."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.errors import AdapterError, AdapterRejected, PassingError
from loramux_adapters.evaluation.evaluator import Examiner, Held
from loramux_adapters.finetuning.jobs.event_log import checkpoint_metrics
from loramux_adapters.finetuning.jobs.job_source import JobSource
from loramux_adapters.finetuning.jobs.models import JobRecord, Note, Progress
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_files import write_comparison, write_results
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.trainer_process import TrainingRun
from loramux_adapters.models import VersionId
from loramux_adapters.service import Library

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """Hands on what the trainer makes; without an examiner nothing is compared."""

    registry: JobRegistry
    library: Library
    files: TrainingFiles
    examiner: Examiner | None = None
    now: Callable[[], float] = time.time

    async def checkpoint(
        self, job: JobRecord, folder: Path, step: int, progress: Progress, *, may_wait: bool = True
    ) -> None:
        """Let a checkpoint be asked for as NAME@DIGEST; one that the engine rejects is told and left out.

        One that the engine has no place for now is added with the result, if it may wait; raises PassingError if not.
        """
        try:
            version = await self._accepted(job, folder, step)
        except AdapterRejected as error:
            await self._note(job, Note(f"Checkpoint at step {step} left out: {error.message}", "warn"))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            return
        except PassingError as error:
            if not may_wait:
                raise
            await self._note(job, Note(f"Checkpoint at step {step} is added at the job's end: {error.message}", "warn"))
            return
        metrics = checkpoint_metrics(step, progress)
        await asyncio.to_thread(self.registry.add_checkpoint, job.id, self.now(), step, str(version), metrics)
        await self._note(job, Note(f"Checkpoint created at step {step}: {version}"))

    async def result(self, job: JobRecord, run: TrainingRun, results: Path) -> None:
        """Let the job's name lead to what it made, keep its results, and enter that it succeeded."""
        await self._take_up(job, run.output)
        version = await self._accepted(job, run.output, job.progress.step)
        held = await self._examine(job, run, version) if self.examiner else None
        kept = await asyncio.to_thread(self._keep_results, job, results, held)
        await self.library.set_alias(job.name, {version.digest: 1.0}, actor=job.created_by)
        notes = (Note(f"New fine-tuned model created: {job.name}"), Note("The job has successfully completed"))
        await asyncio.to_thread(self.registry.move, job.id, JobState.SUCCEEDED, self.now(), *notes, result_files=kept)

    async def _examine(self, job: JobRecord, run: TrainingRun, version: VersionId) -> Held | None:
        """Compare the version with the base, and enter what was found, or why nothing was."""
        held, note = None, Note("Nothing was compared with the base: the job has no validation file")
        if self.examiner and run.validation:
            await self._note(job, Note("Comparing the base and the adapter on the validation file"))
            try:
                held = await self.examiner.hold(version, run.data, run.validation)
                note = Note(held.trial.sentence if held else "Nothing was compared: the adapter has learned all of it")
            except Exception as error:  # noqa: BLE001 - the adapter is made: nothing here may take it from the user
                _log.warning("the base and the adapter of job %s were not compared", job.id, exc_info=error)
                reason = error.message if isinstance(error, AdapterError) else "the server's log says why"
                note = Note(f"The base and the adapter were not compared: {reason}", "warn")
        found = job.progress.model_copy(update={"trial": held.trial.model_dump() if held else None})
        await self._note(job, note, progress=found.model_dump())
        return held

    async def _note(self, job: JobRecord, note: Note, **values: Any) -> None:
        await asyncio.to_thread(self.registry.enter, job.id, self.now(), note, **values)

    async def _take_up(self, job: JobRecord, output: Path) -> None:
        """Add the checkpoints that the trainer made while no server listened to it."""
        known = {found.step for found in (await asyncio.to_thread(self.registry.checkpoints, job.id, None, 100)).items}
        for folder in await asyncio.to_thread(lambda: sorted(output.glob("checkpoints/step-*"))):
            step = int(folder.name.removeprefix("step-"))
            if step not in known:
                await self.checkpoint(job, folder, step, Progress(step=step), may_wait=False)

    async def _accepted(self, job: JobRecord, folder: Path, step: int) -> VersionId:
        source = JobSource(folder, job.id, step)
        return (await self.library.add(job.name, source, actor=job.created_by, promote=False)).id

    def _keep_results(self, job: JobRecord, folder: Path, held: Held | None) -> list[str]:
        kept = []
        paths = write_results(folder, self.registry.metrics(job.id), job.name)
        for path in [*paths, write_comparison(folder, held)] if held else paths:
            with path.open("rb") as file:
                kept.append(self.files.add(file, path.name, "fine-tune-results", self.now()).id)
        return kept
