"""The comparisons at the end of fine-tuning jobs, as controlled results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import TokenMoments
from loramux_adapters.finetuning.jobs.evaluation_summary import MeanInterval
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.resolver import AdapterResolver
from loramux_server.controlled_results.models import ControlledResult, ResultKind

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


@dataclass(frozen=True)
class JobResults:
    """Reads the evaluations of succeeded jobs; a ControlledResultSource."""

    registry: JobRegistry
    resolver: AdapterResolver

    def latest(self) -> Mapping[str, ControlledResult]:
        """Return the evaluation of the newest succeeded job of each adapter that has one; reads the database.

        Raises:
            StoreError: the database can't be read.
        """
        newest_last = sorted(self.registry.succeeded(), key=lambda job: job.finished_at or 0)
        return {result.adapter: result for result in self._results(newest_last)}

    def _results(self, jobs: Iterable[JobRecord]) -> Iterable[ControlledResult]:
        for job in jobs:
            stored = job.progress.evaluation
            evaluation = _parse(stored) if stored else None
            if evaluation is not None:
                yield self._result(job, evaluation)

    def _result(self, job: JobRecord, evaluation: _StoredEvaluation) -> ControlledResult:
        return ControlledResult(
            adapter=job.name,
            version=self._version(job),
            kind=ResultKind.JOB,
            id=job.id,
            measured_at=job.finished_at or job.created_at,
            verdict=evaluation.verdict,
            sentence=evaluation.sentence + (_OLD if evaluation.is_not_worse is None else ""),
            items=evaluation.questions,
            baseline=evaluation.rival,
            measure=evaluation.measure,
            gain=None if evaluation.gain is None else Interval(*evaluation.gain),
            is_worth_it=bool(evaluation.is_not_worse),
            tokens=evaluation.token_moments,
            command=f"loramux finetune show {job.id}",
        )

    def _version(self, job: JobRecord) -> str | None:
        """Return the version that the job made at its last step: checkpoints are versions of earlier steps."""
        record = self.resolver.get(job.name)
        made = [version for version in record.versions if version.source.get("job") == job.id] if record else []
        return str(max(made, key=lambda version: int(version.source.get("step", 0))).id) if made else None


def _parse(stored: Mapping[str, Any]) -> _StoredEvaluation | None:
    try:
        return _StoredEvaluation.model_validate(stored)
    except ValidationError:  # written by another release; the job's own page still shows it
        return None
