"""The comparisons at the end of fine-tuning jobs, as controlled results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_adapters.evaluation.token_moments import TokenMoments
from loramux_adapters.finetuning.jobs.evaluation_summary import MeanInterval
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.resolver import AdapterResolver
from loramux_server.controlled_results.models import ControlledResult, ResultKind

CLOCK_SLACK_SECONDS = 3600.0
"""Jobs that ended in this time before the newest one are read again, in case a clock was set back."""
_OLD = " (By release 0.2 or earlier, which compared less well: `loramux compare` does it again.)"


class _StoredEvaluation(BaseModel):
    """The parts of a stored evaluation that this and earlier releases wrote alike."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    questions: int
    measure: str
    rival: str
    gain: MeanInterval | None = None
    verdict: str
    sentence: str
    is_not_worse: bool | None = None
    """None in evaluations of release 0.2 or earlier."""
    token_moments: TokenMoments | None = None


@dataclass(frozen=True, slots=True)
class _EvaluatedJob:
    id: str
    adapter: str
    ended_at: float
    evaluation: _StoredEvaluation


class JobResults:
    """Reads the evaluations of succeeded jobs; a ControlledResultSource.

    A job that succeeded never changes, so each is read once: evaluations are long, and reports are read often.
    """

    def __init__(self, registry: JobRegistry, resolver: AdapterResolver) -> None:
        self._registry, self._resolver = registry, resolver
        self._newest: dict[str, _EvaluatedJob] = {}
        self._read_until = 0.0

    def latest(self) -> Mapping[str, ControlledResult]:
        """Return the evaluation of the newest succeeded job of each adapter that has one; reads the database.

        Raises:
            StoreError: the database can't be read.
        """
        for job in self._registry.succeeded(self._read_until - CLOCK_SLACK_SECONDS):
            self._add(job)
        return {adapter: self._result(job) for adapter, job in list(self._newest.items())}

    def _add(self, job: JobRecord) -> None:
        ended_at = job.finished_at or job.created_at
        evaluation = _parse(job.progress.evaluation) if job.progress.evaluation else None
        known = self._newest.get(job.name)
        if evaluation is not None and (known is None or known.ended_at <= ended_at):
            self._newest[job.name] = _EvaluatedJob(job.id, job.name, ended_at, evaluation)
        self._read_until = max(self._read_until, ended_at)

    def _result(self, job: _EvaluatedJob) -> ControlledResult:
        evaluation = job.evaluation
        return ControlledResult(
            adapter=job.adapter,
            version=self._version(job),
            kind=ResultKind.JOB,
            id=job.id,
            measured_at=job.ended_at,
            verdict=evaluation.verdict,
            sentence=evaluation.sentence + (_OLD if evaluation.is_not_worse is None else ""),
            items=evaluation.questions,
            baseline=evaluation.rival,
            measure=evaluation.measure,
            gain=evaluation.gain,
            is_worth_it=bool(evaluation.is_not_worse),
            tokens=evaluation.token_moments,
            command=f"loramux finetune show {job.id}",
        )

    def _version(self, job: _EvaluatedJob) -> str | None:
        """Return the version that the job made at its last step: checkpoints are versions of earlier steps."""
        record = self._resolver.get(job.adapter)
        made = [version for version in record.versions if version.source.get("job") == job.id] if record else []
        return str(max(made, key=lambda version: int(version.source.get("step", 0))).id) if made else None


def _parse(stored: Mapping[str, Any]) -> _StoredEvaluation | None:
    try:
        return _StoredEvaluation.model_validate(stored)
    except ValidationError:  # written by another release; the job's own page still shows it
        return None
