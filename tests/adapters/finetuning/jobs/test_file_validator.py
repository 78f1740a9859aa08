"""The files of jobs are validated at once, also while another job is trained."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import has_ended, job_test_bed, messages, until


def is_running(job: JobRecord) -> bool:
    return job.state is JobState.RUNNING


def is_queued(job: JobRecord) -> bool:
    return job.state is JobState.QUEUED


async def test_a_job_behind_another_is_queued_with_its_place_and_events(tmp_path: Path, engine: sa.Engine) -> None:
    """T12: it was `validating_files` with no event for as long as the other job was trained."""
    bed = job_test_bed(tmp_path, engine, "train", "0.3")
    first = bed.job()
    async with bed.supervisor.running():
        await until(bed, first, is_running)
        second = bed.job(name="ft:tiny:local:test:2")
        assert messages(bed, second) == [
            f"Created fine-tuning job: {second.id}",
            f"Validating training file: {bed.training_file}",
        ]
        bed.supervisor.check_now()
        second = await until(bed, second, is_queued, seconds=2)
        forecasts = bed.runner.planner.forecasts(bed.runner.now())
        assert bed.registry.get(first.id).state is JobState.RUNNING
    assert (forecasts[second.id].queue_position, forecasts[second.id].behind) == (1, first.id)
    assert forecasts[second.id].starts_in_seconds == forecasts[first.id].seconds_left
    assert "Files validated, moving job to queued state" in messages(bed, second)
    assert messages(bed, second)[-1].startswith(f"Waiting at place 1 of the queue, behind {first.id}")
    assert second.recipe is not None


async def test_jobs_are_validated_in_the_order_of_their_creation(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "train", "0.3")
    jobs = [bed.job(name=f"ft:tiny:local:test:{number}") for number in range(4)]
    async with bed.supervisor.running():
        await until(bed, jobs[3], is_queued, seconds=5)
        assert [is_queued(bed.registry.get(job.id)) for job in jobs[1:]] == [True] * 3
    behind = [message for message in messages(bed, jobs[3]) if f"behind {jobs[2].id}" in message]
    assert len(behind) == 1


async def test_a_job_with_a_wrong_file_fails_while_another_is_trained(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "train", "0.3")
    first = bed.job()
    async with bed.supervisor.running():
        await until(bed, first, is_running)
        second = bed.job(training_file=bed.preference_file(tmp_path))
        bed.supervisor.check_now()
        second = await until(bed, second, has_ended, seconds=2)
        assert is_running(bed.registry.get(first.id))
    assert (second.state, dict(second.error or {})["param"]) == (JobState.FAILED, "training_file")


async def test_an_error_that_may_pass_is_retried(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed, plan_job = job_test_bed(tmp_path, engine), JobPlanner.plan_job
    errors: list[Exception] = [StoreError("The files can't be read."), StoreError("The files can't be read.")]
    monkeypatch.setattr(
        JobPlanner, "plan_job", lambda planner, job: _raise(errors.pop()) if errors else plan_job(planner, job)
    )
    job = bed.job()
    async with bed.supervisor.running():
        assert (await until(bed, job, has_ended)).state is JobState.SUCCEEDED


async def test_of_two_servers_that_validate_a_job_one_moves_it(tmp_path: Path, engine: sa.Engine) -> None:
    bed, other = job_test_bed(tmp_path, engine), job_test_bed(tmp_path, engine)
    job = bed.job()
    async with (
        running_task(bed.supervisor.validator.run_forever()),
        running_task(other.supervisor.validator.run_forever()),
    ):
        job = await until(bed, job, is_queued)
        await asyncio.sleep(0.1)
    found = messages(bed, job)
    assert found.count("Files validated, moving job to queued state") == 1
    assert bed.registry.get(job.id).state is JobState.QUEUED


def _raise(error: Exception) -> None:
    raise error
