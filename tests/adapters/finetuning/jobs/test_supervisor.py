import asyncio
import contextlib
import errno
import random
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AdapterRejected, NoAdapterCapacity, StoreError
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import files
from tests.helpers.fine_tuning_jobs import NAME, JobTestBed, has_ended, job_test_bed, messages, until


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("trainer.log"))


async def test_a_job_is_trained_and_its_result_is_served(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
    assert bed.library.added == [(NAME, 2), (NAME, 4), (NAME, 6), (NAME, 6)]
    assert str(bed.library.aliases[NAME]) == f"{NAME}@{6:012x}"
    assert [one.step for one in bed.registry.checkpoints(job.id, None, 10).items] == [6, 4, 2]
    assert [bed.files.get(file).filename for file in job.result_files] == ["step_metrics.csv", "loss.png"]
    assert (job.progress.step, job.progress.tokens, job.progress.trained_parameters) == (6, 60, 1)
    assert any("12 examples" in message for message in messages(bed, job))


async def test_a_job_whose_rank_the_engine_can_not_serve_fails_before_its_training(
    tmp_path: Path, engine: sa.Engine
) -> None:
    bed = job_test_bed(tmp_path, engine)
    bed.library.max_rank = 0
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.FAILED
    assert "the rank is above the engine's limit" in (job.error or {})["message"]
    assert job.progress.step == 0


async def test_jobs_run_one_at_a_time_in_the_order_of_their_creation(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    jobs = [bed.job(name=f"ft:tiny:local:test:{number}") for number in range(3)]
    async with bed.supervisor.running():
        ended = [await until(bed, job, has_ended) for job in jobs]
    assert [name for name, step in bed.library.added if step == 2] == [job.name for job in jobs]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 3


async def test_a_cancelled_job_stops_within_seconds_and_keeps_its_checkpoints(
    tmp_path: Path, engine: sa.Engine
) -> None:
    bed = job_test_bed(tmp_path, engine, "train", "0.2")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 3)
        bed.registry.move(job.id, JobState.CANCELLED, 2.0)
        bed.supervisor.check_now()
        async with asyncio.timeout(3):
            while psutil.Process().children():  # noqa: ASYNC110 - no event signals a process's exit here
                await asyncio.sleep(0.01)
        assert bed.registry.get(job.id).state is JobState.CANCELLED
        await until(bed, job, lambda _: not bed.runner.planner.folders.output(job).exists())
    steps = [one.step for one in bed.registry.checkpoints(job.id, None, 10).items]
    assert steps in ([4, 2], [6, 4, 2])  # a trainer that is stopped finishes its step
    assert NAME not in bed.library.aliases


async def test_a_server_can_shut_down_while_a_job_is_being_stopped(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "train", "0.2")
    job = bed.job()
    async with asyncio.timeout(20):
        async with bed.supervisor.running():
            await until(bed, job, lambda record: record.progress.step >= 1)
            bed.registry.move(job.id, JobState.PAUSED, 2.0)
            bed.supervisor.check_now()
            await asyncio.sleep(0.1)  # the trainer has received SIGTERM and finishes its step
    assert psutil.Process().children() == []


async def test_a_paused_job_resumes_from_its_last_step(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "train", "0.05")
    job, other = bed.job(), bed.job(name="ft:tiny:local:test:2")
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 2)
        bed.registry.move(job.id, JobState.PAUSED, 2.0)
        bed.supervisor.check_now()
        assert (await until(bed, other, has_ended)).state is JobState.SUCCEEDED
        bed.registry.move(job.id, JobState.QUEUED, 3.0)
        bed.supervisor.check_now()
        assert (await until(bed, job, has_ended)).state is JobState.SUCCEEDED
    assert any("Training resumes after step" in message for message in messages(bed, job))


async def test_a_trainer_that_keeps_crashing_fails_its_job(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "crash")
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "trainer_crashed"
    assert str(tmp_path) not in str(job.error)
    assert sum("is started again" in message for message in messages(bed, job)) == 2


async def test_an_error_that_the_trainer_reports_fails_the_job_with_its_message(
    tmp_path: Path, engine: sa.Engine
) -> None:
    bed = job_test_bed(tmp_path, engine, "fail")
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert (job.state, dict(job.error or {})["message"]) == (JobState.FAILED, "the base has no chat template")


async def test_a_checkpoint_that_the_engine_rejects_is_left_out(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    bed.library.add_errors.append(AdapterRejected("it has no effect"))
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED
    assert [one.step for one in bed.registry.checkpoints(job.id, None, 10).items] == [6, 4]


async def test_a_lost_training_file_fails_the_job(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    job = bed.job()
    with engine.begin() as connection:
        connection.execute(sa.delete(files).where(files.c.id == bed.training_file))
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert (job.state, dict(job.error or {})["param"]) == (JobState.FAILED, "training_file")


async def test_an_unexpected_error_in_one_job_does_not_stop_the_next_one(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    bed.library.add_errors.append(ZeroDivisionError("in a template"))
    jobs = [bed.job(name=f"ft:tiny:local:test:{number}") for number in range(2)]
    async with bed.supervisor.running():
        first, second = [await until(bed, job, has_ended) for job in jobs]
    assert (first.state, dict(first.error or {})["code"]) == (JobState.FAILED, "server_error")
    assert "template" not in str(first.error)
    assert second.state is JobState.SUCCEEDED


async def test_a_checkpoint_that_the_engine_has_no_slot_for_is_added_at_the_end(
    tmp_path: Path, engine: sa.Engine
) -> None:
    bed = job_test_bed(tmp_path, engine)
    bed.library.add_errors.append(NoAdapterCapacity("every slot is in use"))
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
    assert sorted(one.step for one in bed.registry.checkpoints(job.id, None, 10).items) == [2, 4, 6]
    assert any("step 2 is added at the job's end" in message for message in messages(bed, job))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NoAdapterCapacity("every slot is in use"), "The job waits: every slot is in use"),
        (StoreError("The file can't be stored: No space left on device."), "The job waits: The file can't be stored"),
        (OSError(errno.ENOSPC, "No space left on device", "/secret"), "The job waits: No space is left"),
    ],
)
async def test_a_transient_error_is_retried_until_the_job_succeeds(
    tmp_path: Path, engine: sa.Engine, error: Exception, message: str
) -> None:
    bed = job_test_bed(tmp_path, engine)
    job = bed.job()
    bed.library.alias_errors += [error, error, error]
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
    assert [found.startswith(message) for found in messages(bed, job)].count(True) == 1
    assert bed.library.alias_errors == []


async def test_a_server_that_shuts_down_does_not_count_as_a_crash_of_the_trainer(
    tmp_path: Path, engine: sa.Engine
) -> None:
    """The trainer reports nothing for so long that no server sees a saved state."""
    bed = job_test_bed(tmp_path, engine, "crash", "0.5")
    job = bed.job()
    for _ in range(4):
        async with bed.supervisor.running():
            await until(bed, job, lambda record: record.state is JobState.RUNNING)
            await asyncio.sleep(0.1)
    assert bed.registry.get(job.id).state is JobState.RUNNING
    assert bed.registry.get(job.id).attempts == 0


async def test_a_trainer_without_disk_space_is_started_again_later(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine, "train_on_a_full_disk_first")
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
    assert "The job waits: no space is left on the disk" in messages(bed, job)


async def test_a_job_that_is_paused_while_its_files_are_validated_stays_paused(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = job_test_bed(tmp_path, engine)
    job, plan_job = bed.job(), bed.runner.planner.plan_job
    planned = asyncio.Event()
    loop = asyncio.get_running_loop()

    def pause_meanwhile(_: object, job: JobRecord) -> object:
        bed.registry.move(job.id, JobState.PAUSED, 2.0)
        loop.call_soon_threadsafe(planned.set)
        return plan_job(job)

    monkeypatch.setattr(JobPlanner, "plan_job", pause_meanwhile)
    async with bed.supervisor.running():
        await asyncio.wait_for(planned.wait(), 30)
        await asyncio.sleep(0.2)
    assert bed.registry.get(job.id).state is JobState.PAUSED
    assert bed.registry.get(job.id).recipe is None


async def test_an_error_of_the_supervisor_itself_is_retried(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = job_test_bed(tmp_path, engine)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"ftjob-{'a' * 24}").mkdir()  # of another database
    counts = bed.registry.counts
    errors: list[Exception] = [ValueError("odd"), OSError("no descriptor")]
    monkeypatch.setattr(bed.registry, "counts", lambda: counts() if not errors else _raise(errors.pop()))
    job = bed.job()
    async with bed.supervisor.running():
        assert (await until(bed, job, has_ended)).state is JobState.SUCCEEDED


def _raise(error: Exception) -> None:
    raise error


async def test_an_ended_job_leaves_only_its_log(tmp_path: Path, engine: sa.Engine) -> None:
    bed = job_test_bed(tmp_path, engine)
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, has_ended)
    cancelled = bed.job(name="ft:tiny:local:test:2")
    bed.runner.planner.training_run(cancelled).write(tmp_path / "jobs" / cancelled.id / "run.json")
    bed.registry.move(cancelled.id, JobState.CANCELLED, 2.0)
    async with bed.supervisor.running():
        await until(bed, bed.job(name="ft:tiny:local:test:3"), has_ended)
    assert [path.name for path in (tmp_path / "jobs" / job.id).iterdir()] == ["trainer.log"]
    assert list((tmp_path / "jobs" / cancelled.id).iterdir()) == []


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(5, 0), pytest.param(50, 0, marks=pytest.mark.slow), pytest.param(50, 1, marks=pytest.mark.slow)],
)
async def test_killed_trainers_and_restarted_servers_neither_lose_nor_repeat_a_job(
    tmp_path: Path, engine: sa.Engine, kills: int, seed: int
) -> None:
    """Trainers are killed at random moments, and after every third moment the server is replaced."""
    rng = random.Random(seed)  # noqa: S311 - must be reproducible
    bed = job_test_bed(tmp_path, engine, "train", "0.03")
    jobs: list[JobRecord] = []
    killed = 0
    while killed < kills or not all(has_ended(bed.registry.get(job.id)) for job in jobs):
        if all(has_ended(bed.registry.get(job.id)) for job in jobs):
            jobs += [bed.job(name=f"ft:tiny:local:test:{len(jobs) + number}") for number in range(3)]
        async with bed.supervisor.running():
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.0, 0.25))
                for child in psutil.Process().children() if killed < kills else ():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                        killed += 1
    ended = [bed.registry.get(job.id) for job in jobs]
    assert {job.state for job in ended} <= {JobState.SUCCEEDED, JobState.FAILED}
    for job in ended:
        if job.state is JobState.FAILED:  # three kills in a row, each before a step was saved
            assert dict(job.error or {})["code"] == "trainer_crashed"
        else:
            assert_results_are_complete(bed, job)
    assert "BlockingIOError" not in logs(tmp_path)


def assert_results_are_complete(bed: JobTestBed, job: JobRecord) -> None:
    assert bed.library.added.count((job.name, 6)) >= 1
    assert len(bed.registry.checkpoints(job.id, None, 10).items) == 3
