"""The timings of a job: its planned work, and when each of its phases began. Later jobs are estimated from them."""

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.recipes.estimate import JobWork, Phase, PhaseSpeeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loramux_adapters.finetuning.jobs.models import JobRecord


class PhaseStart(BaseModel):
    """The start of a phase, in Unix seconds."""

    model_config = ConfigDict(frozen=True)

    phase: Phase
    at: float


class JobTimings(BaseModel):
    """What was planned and what has happened so far.

    `machine` is the machine that does it, as the planner names it: the expected one, then the one that trains; empty if
    there were several.
    """

    model_config = ConfigDict(frozen=True)

    work: JobWork | None = None
    machine: str = ""
    phases: tuple[PhaseStart, ...] = ()

    @property
    def current(self) -> PhaseStart | None:
        """The phase that the job is in, or ended in."""
        return self.phases[-1] if self.phases else None

    def entered(self, phase: Phase, at: float) -> "JobTimings":
        """Return the timings after the start of a phase."""
        return self.model_copy(update={"phases": (*self.phases, PhaseStart(phase=phase, at=at))})

    def as_trained(self, machine: str, *, recomputes: bool, resumes: bool) -> "JobTimings":
        """Return the timings of a job that is trained on `machine`, with or without gradient checkpointing.

        A training that resumes on another machine than it began on is that of none.
        """
        work = self.work and self.work.model_copy(update={"recomputes": recomputes})
        is_mixed = resumes and machine != self.machine
        return self.model_copy(update={"work": work, "machine": "" if is_mixed else machine})

    def seconds(self, phase: Phase, finished_at: float) -> float | None:
        """Return how long the last run of a phase took; None if it did not lead to the next phase.

        A phase that was interrupted is followed by `loading`, the beginning of the next run.
        """
        ends = [*(start.at for start in self.phases[1:]), finished_at]
        interrupted = [start.phase == "loading" for start in self.phases[1:]] + [False]
        found = [
            end - start.at
            for start, end, is_interrupted in zip(self.phases, ends, interrupted, strict=True)
            if start.phase == phase and not is_interrupted
        ]
        return found[-1] if found else None


class _Measured(NamedTuple):
    """Speeds of one ended job."""

    loading: float | None
    flops_per_second: float | None
    publishing: float | None
    per_question: float | None


def learn_speeds(jobs: "Sequence[JobRecord]", machine: str, assumed: PhaseSpeeds) -> PhaseSpeeds:
    """Return the medians over succeeded jobs on `machine`; what none of them shows is taken from `assumed`."""
    measured = [_measure(job) for job in jobs if job.timings.machine == machine]
    flops = _median([one.flops_per_second for one in measured])
    return PhaseSpeeds(
        loading_seconds=_median([one.loading for one in measured]) or assumed.loading_seconds,
        flops_per_second=flops or assumed.flops_per_second,
        publishing_seconds=_median([one.publishing for one in measured]) or assumed.publishing_seconds,
        seconds_per_question=_median([one.per_question for one in measured]) or assumed.seconds_per_question,
        measured=flops is not None,
    )


def _measure(job: "JobRecord") -> _Measured:
    timings, work, trained = job.timings, job.timings.work, job.progress.seconds
    finished_at = job.finished_at or 0.0
    evaluating = timings.seconds("evaluating", finished_at)
    return _Measured(
        loading=timings.seconds("loading", finished_at),
        flops_per_second=work.total_flops / trained if work and work.flops > 0 and trained > 0 else None,
        publishing=timings.seconds("publishing", finished_at),
        per_question=evaluating / work.questions if evaluating and work and work.questions else None,
    )


def _median(values: "Sequence[float | None]") -> float | None:
    known = [value for value in values if value is not None and value > 0]
    return median(known) if known else None
