"""Publishes the results of a job: versions to serve, a comparison with the base, and result files."""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.errors import AdapterError, AdapterRejected, StoreError, TransientError
from loramux_adapters.finetuning.datasets.unseen_pairs import unseen_pairs
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed, WrongJobState
from loramux_adapters.finetuning.jobs.evaluation import EvaluationResult, Evaluator
from loramux_adapters.finetuning.jobs.evaluation_summary import EvaluationSummary
from loramux_adapters.finetuning.jobs.event_log import checkpoint_metrics
from loramux_adapters.finetuning.jobs.job_source import JobSource
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.preference_evaluation import PreferenceEvaluator, PreferenceSummary
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_files import write_comparison, write_preferences, write_results
from loramux_adapters.finetuning.jobs.self_test import SelfTest
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.recipes.estimate import Phase
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_adapters.model_aliases import ModelAliases
from loramux_adapters.models import VersionId, parse_adapter_name
from loramux_adapters.service import AdapterService

_NOTHING_NEW = "Nothing was compared: every validation example is in the training file too"
_CHOSEN_BY_THE_SAME_FILE = "early stopping chose the adapter on this file: on new data it may do a bit worse"
_log = logging.getLogger(__name__)

Evaluated = EvaluationResult | PreferenceSummary
EnterPhase = Callable[[Phase], Awaitable[None]]


async def _enter_nothing(_: Phase) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class ResultPublisher:
    """Publishes checkpoints and results; without an evaluator, nothing is compared with the base."""

    registry: JobRegistry
    library: AdapterService
    files: TrainingFiles
    evaluator: Evaluator | None = None
    self_test: SelfTest | None = None
    now: Callable[[], float] = time.time
    aliases: ModelAliases | None = None

    async def publish_checkpoint(self, job: JobRecord, folder: Path, step: int, *, may_wait: bool = True) -> None:
        """Add a checkpoint as the version NAME@DIGEST; one that the engine rejects is left out, with an event.

        A checkpoint that the engine has no free slot for is added with the result instead, if `may_wait`.

        Raises:
            TransientError: the engine has no free slot, and the checkpoint may not wait.
        """
        try:
            version = await self._add_version(job, folder, step)
        except AdapterRejected as error:
            with suppress(WrongJobState):  # a job that was stopped gets no more events than those of its checkpoints
                await self._add_event(job, JobEvent(f"Checkpoint at step {step} left out: {error.message}", "warn"))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            return
        except TransientError as error:
            if not may_wait:
                raise
            await self._add_event(
                job, JobEvent(f"Checkpoint at step {step} is added at the job's end: {error.message}", "warn")
            )
            return
        metrics = checkpoint_metrics(step, await asyncio.to_thread(self.registry.metrics, job.id))
        await asyncio.to_thread(self.registry.add_checkpoint, job.id, self.now(), step, str(version), metrics)

    async def publish_missed_checkpoints(self, job: JobRecord, output: Path) -> None:
        """Add the checkpoints in `output` that were exported while the engine slept, or no server read the events.

        Raises:
            AdapterError: one of them can't be added; see `publish_checkpoint`.
        """
        known = {found.step for found in (await asyncio.to_thread(self.registry.checkpoints, job.id, None, 100)).items}
        for folder in await asyncio.to_thread(lambda: sorted(output.glob("checkpoints/step-*"), key=_step)):
            if _step(folder) not in known:
                await self.publish_checkpoint(job, folder, _step(folder), may_wait=False)

    async def publish_result(
        self, job: JobRecord, run: TrainingRun, results: Path, enter: EnterPhase = _enter_nothing
    ) -> None:
        """Add the result as a version, point the job's name at it, store the result files, and end the job.

        `enter` is called at the start of each phase of the job.

        Raises:
            SelfTestFailed: the adapter does not give the answers that it has learned; it is not promoted.
            AdapterError: the result can't be added, or the registry can't be written.
        """
        await self.publish_missed_checkpoints(job, run.output)
        version = await self._add_version(job, run.output, _result_step(job))
        if self.self_test and not _is_dpo(run):  # its answers are not learned by heart
            metrics = await asyncio.to_thread(self.registry.metrics, job.id)
            await self._add_event(job, await self.self_test.run(version, run.data, metrics))
        await enter("evaluating")
        evaluation = await self._evaluate(job, run, version) if self.evaluator else None
        stored = await asyncio.to_thread(self._store_result_files, job, results, evaluation)
        await self.library.set_alias(job.name, {version.digest: 1.0}, actor=job.created_by)
        created = [JobEvent(f"New fine-tuned model created: {job.name}"), *await self._set_model_alias(job)]
        events = (*created, JobEvent("The job has successfully completed"))
        await asyncio.to_thread(
            self.registry.move, job.id, JobState.SUCCEEDED, self.now(), *events, result_files=stored
        )

    async def _set_model_alias(self, job: JobRecord) -> list[JobEvent]:
        """Make the alias that the job asks for; returns the event of it. A conflict must not fail a trained job."""
        if job.alias is None or self.aliases is None:
            return []
        try:
            await self.aliases.set(parse_adapter_name(job.alias), job.name, actor=job.created_by)
        except StoreError:  # passes: the job is published again
            raise
        except AdapterError as error:
            return [JobEvent(f"The alias {job.alias} was not made: {error.message}", "warn")]
        return [JobEvent(f"The model can be requested as {job.alias} too")]

    async def _evaluate(self, job: JobRecord, run: TrainingRun, version: VersionId) -> Evaluated | None:
        """Compare the version with the base, and add an event with the result, or with why nothing was compared."""
        evaluation, event = None, JobEvent("Nothing was compared with the base: the job has no validation file")
        if self.evaluator and run.validation:
            await self._add_event(job, JobEvent("Comparing the base and the adapter on the validation file"))
            try:
                evaluation = await self._compare(self.evaluator, job, run, version, run.validation)
                event = JobEvent(_summary(evaluation).sentence if evaluation else _NOTHING_NEW)
            except Exception as error:  # noqa: BLE001 - the adapter is trained: a failed comparison must not fail the job
                _log.warning("the base and the adapter of job %s were not compared", job.id, exc_info=error)
                reason = error.message if isinstance(error, AdapterError) else "see the server's log"
                event = JobEvent(f"The base and the adapter were not compared: {reason}", "warn")
        found = _summary(evaluation).model_dump() if evaluation else None
        progress = job.progress.model_copy(update={"preference" if _is_dpo(run) else "evaluation": found})
        await self._add_event(job, event, progress=progress.model_dump())
        for warning in _warnings(evaluation, run):
            await self._add_event(job, JobEvent(f"Comparison: {warning}", "warn"))
        return evaluation

    async def _compare(
        self, evaluator: Evaluator, job: JobRecord, run: TrainingRun, version: VersionId, validation: Path
    ) -> Evaluated | None:
        """Evaluate the version as its method demands; None if there is nothing to compare.

        Raises:
            AdapterError: a file is invalid, or a request failed.
        """
        start = VersionId.parse(job.from_version) if job.from_version else None
        if not _is_dpo(run):
            return await evaluator.evaluate(version, start, run.data, validation)
        held_out = await asyncio.to_thread(unseen_pairs, run.data, validation)
        if not held_out.pairs:
            return None
        step, metrics = _result_step(job), await asyncio.to_thread(self.registry.metrics, job.id)
        measured = [found for found in metrics if found["step"] == step and "valid_reward_accuracy" in found]
        if not measured:
            raise EvaluationFailed("the validation file was not measured after the last step")
        preferences = PreferenceEvaluator(evaluator.complete, evaluator.token_counter, evaluator.max_context_tokens)
        return await preferences.evaluate(version, start, held_out, measured[-1])

    async def _add_event(self, job: JobRecord, event: JobEvent, **values: Any) -> None:
        await asyncio.to_thread(self.registry.update_running, job.id, self.now(), event, **values)

    async def _add_version(self, job: JobRecord, folder: Path, step: int) -> VersionId:
        source = JobSource(folder, job.id, step, job.from_version)
        added = await self.library.add(job.name, source, actor=job.created_by, promote=False, project=job.project)
        return added.id

    def _store_result_files(self, job: JobRecord, folder: Path, evaluation: Evaluated | None) -> list[str]:
        """Write the result files to `folder`, and add them as files of the API; returns their ids."""
        paths = write_results(folder, self.registry.metrics(job.id), job.name)
        if isinstance(evaluation, EvaluationResult):
            paths.append(write_comparison(folder, evaluation))
        elif evaluation:
            paths.append(write_preferences(folder, evaluation))
        return [self._store_file(path, job.project) for path in paths]

    def _store_file(self, path: Path, project: str) -> str:
        with path.open("rb") as file:
            return self.files.add(file, path.name, "fine-tune-results", self.now(), project=project).id


def _warnings(evaluation: Evaluated | None, run: TrainingRun) -> list[str]:
    warnings = (
        [warning.message for warning in evaluation.summary.warnings] if isinstance(evaluation, EvaluationResult) else []
    )
    if evaluation and run.recipe and run.recipe.early_stopping_patience:
        warnings.append(_CHOSEN_BY_THE_SAME_FILE)
    return warnings


def _is_dpo(run: TrainingRun) -> bool:
    return run.recipe is not None and run.recipe.is_dpo


def _result_step(job: JobRecord) -> int:
    """Return the step whose adapter is the result."""
    return job.progress.best_step or job.progress.step


def _summary(evaluation: Evaluated) -> EvaluationSummary | PreferenceSummary:
    return evaluation.summary if isinstance(evaluation, EvaluationResult) else evaluation


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
