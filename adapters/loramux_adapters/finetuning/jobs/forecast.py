"""Forecasts of unfinished jobs: their places in the queue, when they start, and when they end."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.timings import PhaseStart
from loramux_adapters.finetuning.recipes.estimate import PHASES, Phase, PhaseSpeeds

_OVERDUE_SHARE = 0.1
"""What takes longer than expected is expected to last another tenth of its time so far."""


_MAX_SCALE = 4.0
"""Limit of the factor by which assumed times are scaled: publishing and evaluation depend on the engine too."""


class JobForecast(NamedTuple):
    """The forecast of one job. What can't be known yet is None; it may depend on the jobs before it."""

    queue_position: int | None = None
    """1 for the waiting job that is next; None for a job that does not wait."""
    behind: str | None = None
    """The id of the job before a waiting one, if it is of the same project: the running one, or another that waits."""
    starts_in_seconds: float | None = None
    seconds_left: float | None = None
    """Seconds until the end of the job, including the wait for its start."""


UNKNOWN = JobForecast()


def forecast_jobs(unfinished: Sequence[JobRecord], speeds: PhaseSpeeds, now: float) -> Mapping[str, JobForecast]:
    """Return the forecasts of the running and the waiting jobs, given in the order in which they are worked on."""
    found: dict[str, JobForecast] = {}
    before: JobRecord | None = None
    wait: float | None = 0.0
    position = 0
    for job in unfinished:
        left = seconds_left(job, speeds, now)
        if job.state is JobState.RUNNING:
            forecast = JobForecast(seconds_left=left)
        else:
            position += 1
            total = None if wait is None or left is None else wait + left
            behind = before.id if before and before.project == job.project else None
            forecast = JobForecast(position, behind, wait, total)
        found[job.id], before, wait = forecast, job, forecast.seconds_left
    return found


def seconds_left(job: JobRecord, speeds: PhaseSpeeds, now: float) -> float | None:
    """Return the seconds that a job needs from its start, or if it runs from now.

    None before it was planned, and on a base and machine without an earlier job before its first steps: assumed speeds
    may be wrong by several times.
    """
    current = job.timings.current
    expected = _expected_seconds(job, speeds)
    if expected is None:
        return None
    if job.state is not JobState.RUNNING or current is None or current.phase == "loading":
        expected["training"] *= 1 - (job.progress.share or 0.0)  # of a job that resumes, a part is done
    if job.state is not JobState.RUNNING or current is None:
        return sum(expected.values())
    later = PHASES[PHASES.index(current.phase) + 1 :]
    is_measured = current.phase == "training" and job.progress.estimated_at >= current.at
    left = _training_left(job.progress, now) if is_measured else None
    if left is None:
        left = _at_least_a_tenth(expected[current.phase], _elapsed(current, now))
    return left + sum(expected[phase] for phase in later)


def _expected_seconds(job: JobRecord, speeds: PhaseSpeeds) -> dict[Phase, float] | None:
    """Return the expected duration of each phase; assumed ones are scaled by how long the job's own steps took."""
    work, progress = job.timings.work, job.progress
    if work is None:
        return None
    expected = speeds.expected_seconds(work)
    if speeds.measured:
        return expected
    if not progress.share or not expected["training"]:
        return None
    scale = min(max(progress.seconds / progress.share / expected["training"], 1 / _MAX_SCALE), _MAX_SCALE)
    return {phase: scale * seconds for phase, seconds in expected.items()}


def _training_left(progress: JobProgress, now: float) -> float | None:
    """Return the trainer's own estimate, less the time since it was made."""
    if progress.seconds_left is None:
        return None
    return _at_least_a_tenth(progress.seconds_left, max(0.0, now - progress.estimated_at))


def _at_least_a_tenth(expected: float, elapsed: float) -> float:
    return max(expected - elapsed, _OVERDUE_SHARE * elapsed)


def _elapsed(current: PhaseStart, now: float) -> float:
    return max(0.0, now - current.at)  # clocks can be set back
