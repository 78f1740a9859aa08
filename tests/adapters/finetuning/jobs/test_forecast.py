import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from loramux_adapters.finetuning.jobs.forecast import JobForecast, forecast_jobs, seconds_left
from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.plans import queue_event
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.timings import JobTimings, PhaseStart, learn_speeds
from loramux_adapters.finetuning.recipes.estimate import CPU_SPEEDS, PHASES, JobWork, PhaseSpeeds
from tests.helpers.fine_tuning_jobs import job_record
from tests.helpers.simulated_job import MACHINE, JobScript, play_job

WORK = JobWork(steps=100, tokens=10_000, flops=100e9, questions=10)
SPEEDS = PhaseSpeeds(
    loading_seconds=10, flops_per_second=1e9, publishing_seconds=5, seconds_per_question=2, measured=True
)
TOTAL = 10 + 100 + 5 + 20


def job(
    number: int, state: JobState, work: JobWork | None = WORK, *phases: PhaseStart, **progress: object
) -> JobRecord:
    timings = JobTimings(work=work, machine=MACHINE, phases=phases)
    record = job_record(state)
    return replace(record, id=f"ftjob-{number}", timings=timings, progress=JobProgress.model_validate(progress))


def steps(count: int, *, seconds_per_token: float = 0.01, noise: float = 0.1, seed: int = 0) -> list[tuple[float, int]]:
    """Steps of batches of similar lengths, so that the tokens of two steps can differ tenfold."""
    rng = default_rng(seed)
    tokens = [int(value) for value in rng.integers(40, 400, count)]
    return [(tokens_ * seconds_per_token * float(rng.lognormal(0, noise)), tokens_) for tokens_ in tokens]


def slow_start(script: Sequence[tuple[float, int]], count: int, factor: float) -> list[tuple[float, int]]:
    return [(seconds * (factor if n < count else 1), tokens) for n, (seconds, tokens) in enumerate(script)]


def test_a_waiting_job_has_its_place_in_the_queue_and_when_it_starts() -> None:
    """T12: a job behind another showed `validating_files 0/?` and nothing else for 13 minutes."""
    running = job(
        1, JobState.RUNNING, WORK, PhaseStart(phase="training", at=100.0), step=40, steps=100, seconds_left=60.0,
        estimated_at=110.0,
    )  # fmt: skip
    jobs = [running, job(2, JobState.QUEUED), job(3, JobState.VALIDATING_FILES, None), job(4, JobState.QUEUED)]
    assert forecast_jobs(jobs, SPEEDS, 120.0) == {
        "ftjob-1": JobForecast(seconds_left=50 + 5 + 20),
        "ftjob-2": JobForecast(1, "ftjob-1", 75, 75 + TOTAL),
        "ftjob-3": JobForecast(2, "ftjob-2", 75 + TOTAL, None),  # its work is not known yet
        "ftjob-4": JobForecast(3, "ftjob-3", None, None),  # so neither is this
    }


def test_the_first_of_the_queue_starts_now() -> None:
    assert forecast_jobs([job(1, JobState.QUEUED)], SPEEDS, 0.0) == {"ftjob-1": JobForecast(1, None, 0, TOTAL)}


@pytest.mark.parametrize(
    ("forecast", "message"),
    [
        (
            JobForecast(2, "ftjob-7", 790.0, 900.0),
            "Waiting at place 2 of the queue, behind ftjob-7, starts in about 13 min",
        ),
        (JobForecast(1, "ftjob-7", None, None), "Waiting at place 1 of the queue, behind ftjob-7"),
        (JobForecast(1, None, 0.0, 60.0), None),
    ],
)
def test_an_event_says_which_job_is_before_it_and_how_long_that_takes(
    forecast: JobForecast, message: str | None
) -> None:
    event = queue_event(forecast)
    assert (event.message if event else None) == message


def test_the_time_left_of_a_resumed_job_counts_only_the_steps_that_are_left() -> None:
    """Its loading, publishing and evaluation are still to come; an estimate of an earlier run does not count."""
    stale = {"step": 75, "steps": 100, "seconds_left": 9999.0, "estimated_at": 50.0}
    queued = job(1, JobState.QUEUED, WORK, PhaseStart(phase="training", at=40.0), **stale)
    assert seconds_left(queued, SPEEDS, 1000.0) == 10 + 25 + 5 + 20
    loading = job(1, JobState.RUNNING, WORK, PhaseStart(phase="loading", at=1000.0), **stale)
    assert seconds_left(loading, SPEEDS, 1004.0) == 6 + 25 + 5 + 20


@given(
    phase=st.sampled_from(PHASES),
    elapsed=st.floats(-1e6, 1e9),
    left=st.none() | st.floats(0, 1e9),
    estimated=st.floats(-1e6, 1e6),
    share=st.floats(0, 1),
)
def test_the_time_left_of_a_running_job_is_never_negative_nor_nan(
    phase: str, elapsed: float, left: float | None, estimated: float, share: float
) -> None:
    """T12: clocks may be set back, and each phase may take longer than expected."""
    start = PhaseStart.model_validate({"phase": phase, "at": 0.0})
    progress = {"seconds_left": left, "estimated_at": estimated, "step": int(100 * share), "steps": 100}
    found = seconds_left(job(1, JobState.RUNNING, WORK, start, **progress), SPEEDS, elapsed)
    assert found is not None
    assert math.isfinite(found)
    assert found >= 0


def test_a_phase_that_takes_longer_than_expected_is_not_over_at_any_moment() -> None:
    late = job(1, JobState.RUNNING, WORK, PhaseStart(phase="evaluating", at=0.0))
    assert [seconds_left(late, SPEEDS, now) for now in (0.0, 10.0, 100.0)] == [20, 10, 10]


SCRIPTS = {
    "steady": JobScript(steps(150)),
    "slow start": JobScript(slow_start(steps(150), 6, 4)),
    "varying steps": JobScript(steps(150, noise=0.5)),
    "few steps": JobScript(steps(12, noise=0.3), evaluating=20, questions=20),
    "long validation": JobScript(steps(120), validation=80, validation_tokens=15_000),
    "long evaluation": JobScript(steps(150), evaluating=300, questions=60, validation=12, validation_tokens=2_400),
    "slow loading": JobScript(steps(60), loading=120, evaluating=40, questions=30),
    "slow publishing": JobScript(steps(90), publishing=60, save=5),
}


def first_job(script: JobScript) -> JobScript:
    """An earlier, smaller job on the same machine: each question and each token took as long."""
    questions = 25 if script.questions else 0
    per_question = script.evaluating / script.questions if script.questions else 0
    third = len(script.steps) // 3
    return replace(script, steps=script.steps[:third], questions=questions, evaluating=questions * per_question)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_at_half_time_the_end_of_a_job_is_known_within_a_quarter(name: str) -> None:
    """T12: the estimate covers loading, training, validation, checkpoints, publishing and evaluation."""
    script = SCRIPTS[name]
    earlier = await play_job(first_job(script), CPU_SPEEDS)
    learned = learn_speeds([earlier.record], MACHINE, CPU_SPEEDS)
    played = await play_job(script, learned)
    errors = {share: played.error_at(share) for share in (0.25, 0.5, 0.75)}
    assert abs(errors[0.5]) <= 0.25, errors
    assert max(map(abs, errors.values())) <= 0.35, errors
    assert all(left is not None and left >= 0 for _, left in played.samples)


async def test_before_the_first_job_nothing_is_promised_until_its_own_steps_are_measured() -> None:
    """T12: null where it is unknown rather than wrong."""
    assert forecast_jobs([job(1, JobState.QUEUED), job(2, JobState.QUEUED)], CPU_SPEEDS, 0.0) == {
        "ftjob-1": JobForecast(1, None, 0, None),
        "ftjob-2": JobForecast(2, "ftjob-1", None, None),
    }
    played = await play_job(SCRIPTS["steady"], CPU_SPEEDS)
    assert played.samples[0][1] is None
    assert abs(played.error_at(0.5)) <= 0.25


async def test_what_earlier_jobs_took_on_another_machine_is_not_used() -> None:
    earlier = await play_job(SCRIPTS["long evaluation"], CPU_SPEEDS)
    assert learn_speeds([earlier.record], "another machine", CPU_SPEEDS) == CPU_SPEEDS
    learned = learn_speeds([earlier.record], MACHINE, CPU_SPEEDS)
    assert (learned.measured, learned.seconds_per_question) == (True, 5)
    assert learned.loading_seconds == pytest.approx(15)


def test_an_interrupted_phase_teaches_nothing() -> None:
    starts = [("loading", 0), ("training", 10), ("loading", 500), ("training", 512), ("publishing", 600)]
    phases = [PhaseStart.model_validate({"phase": phase, "at": at}) for phase, at in starts]
    timings = JobTimings(phases=tuple(phases))
    assert (timings.seconds("loading", 610), timings.seconds("publishing", 610)) == (12, 10)
    assert JobTimings(phases=tuple(phases[:2])).seconds("loading", 0) == 10
    assert JobTimings(phases=tuple(phases[:3])).seconds("training", 999) is None
    assert timings.seconds("evaluating", 610) is None
