import asyncio
import contextlib
import errno
import random
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AdapterRejected, NoAdapterCapacity, StoreError
from loramux_adapters.finetuning.jobs import supervisor
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import NAME, Bench, bench

TRAINER = """
import pathlib
place = pathlib.Path(state); place.mkdir(parents=True, exist_ok=True)
saved = place / "step"
step = int(saved.read_text()) if saved.exists() else 0
runs = place / "runs"
descriptor = os.open(runs, os.O_CREAT | os.O_RDWR)
import fcntl
fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a second trainer beside this one crashes here
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
say(event="started", examples=12, steps=6, trained_parameters=1, base_parameters=100, resumed_step=step)
while step < 6 and not stopped:
    time.sleep(SECONDS)
    step += 1
    say(event="step", step=step, steps=6, loss=1.0 / step, tokens=10 * step, seconds=step, seconds_left=6 - step)
    if step in (2, 4, 6):
        os.makedirs(f"{output}/checkpoints/step-{step}", exist_ok=True)
        say(event="checkpointed", step=step, folder=f"checkpoints/step-{step}")
    written = place / "new"; written.write_text(str(step)); written.rename(saved)
    say(event="saved", step=step)
if step < 6:
    say(event="paused", step=step)
else:
    say(event="finished", size=1, seconds=6)
"""
QUICK, SLOW = TRAINER.replace("SECONDS", "0"), TRAINER.replace("SECONDS", "0.2")


async def until(made: Bench, job: JobRecord, found: Callable[[JobRecord], bool], seconds: float = 30) -> JobRecord:
    async with asyncio.timeout(seconds):
        while not found(record := made.registry.get(job.id)):  # noqa: ASYNC110 - as a client would
            await asyncio.sleep(0.01)
    return record


def has_ended(job: JobRecord) -> bool:
    return job.state.has_ended


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("trainer.log"))


def messages(made: Bench, job: JobRecord) -> list[str]:
    return [event.message for event in reversed(made.registry.events(job.id, None, 1000).items)]


async def test_a_job_is_trained_and_what_it_made_serves(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(made, job)
    assert made.library.added == [(NAME, 2), (NAME, 4), (NAME, 6), (NAME, 6)]
    assert str(made.library.aliases[NAME]) == f"{NAME}@{6:012x}"
    assert [one.step for one in made.registry.checkpoints(job.id, None, 10).items] == [6, 4, 2]
    assert [made.files.get(file).filename for file in job.result_files] == ["step_metrics.csv", "loss.png"]
    assert (job.progress.step, job.progress.tokens, job.progress.trained_parameters) == (6, 60, 1)
    assert any("12 examples" in message for message in messages(made, job))


async def test_jobs_run_one_after_the_other_in_the_order_in_which_they_came(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    jobs = [made.job(name=f"ft:tiny:local:test:{number}") for number in range(3)]
    async with made.supervisor.working():
        ended = [await until(made, job, has_ended) for job in jobs]
    assert [name for name, step in made.library.added if step == 2] == [job.name for job in jobs]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 3


async def test_a_cancelled_job_stops_within_seconds_and_keeps_its_checkpoints(
    tmp_path: Path, engine: sa.Engine
) -> None:
    made = bench(tmp_path, engine, SLOW)
    job = made.job()
    async with made.supervisor.working():
        await until(made, job, lambda record: record.progress.step >= 3)
        made.registry.move(job.id, JobState.CANCELLED, 2.0)
        made.supervisor.wake()
        async with asyncio.timeout(3):
            while psutil.Process().children():  # noqa: ASYNC110 - processes tell nobody
                await asyncio.sleep(0.01)
    assert made.registry.get(job.id).state is JobState.CANCELLED
    assert [one.step for one in made.registry.checkpoints(job.id, None, 10).items] == [2]
    assert NAME not in made.library.aliases


async def test_a_server_that_ends_while_a_job_is_being_stopped_ends(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, SLOW)
    job = made.job()
    async with asyncio.timeout(20):
        async with made.supervisor.working():
            await until(made, job, lambda record: record.progress.step >= 1)
            made.registry.move(job.id, JobState.PAUSED, 2.0)
            made.supervisor.wake()
            await asyncio.sleep(0.1)  # the trainer has been told, and ends its step
    assert psutil.Process().children() == []


async def test_a_paused_job_goes_on_where_it_was(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, SLOW)
    job, other = made.job(), made.job(name="ft:tiny:local:test:2")
    async with made.supervisor.working():
        await until(made, job, lambda record: record.progress.step >= 2)
        made.registry.move(job.id, JobState.PAUSED, 2.0)
        made.supervisor.wake()
        assert (await until(made, other, has_ended)).state is JobState.SUCCEEDED
        made.registry.move(job.id, JobState.QUEUED, 3.0)
        made.supervisor.wake()
        assert (await until(made, job, has_ended)).state is JobState.SUCCEEDED
    assert any("goes on after step" in message for message in messages(made, job))


async def test_a_trainer_that_crashes_again_and_again_fails_its_job(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, "1 / 0")
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "trainer_crashed"
    assert str(tmp_path) not in str(job.error)
    assert sum("is started again" in message for message in messages(made, job)) == 2


async def test_what_the_trainer_refuses_fails_the_job_with_its_words(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, 'say(event="failed", message="the base has no chat template"); sys.exit(2)')
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert (job.state, dict(job.error or {})["message"]) == (JobState.FAILED, "the base has no chat template")


async def test_a_checkpoint_that_the_engine_rejects_is_left_out(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    made.library.refused.append(AdapterRejected("it has no effect"))
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.SUCCEEDED
    assert [one.step for one in made.registry.checkpoints(job.id, None, 10).items] == [6, 4]


async def test_a_file_that_is_gone_fails_the_job(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    job = made.job()
    made.files.delete(made.training_file)
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert (job.state, dict(job.error or {})["param"]) == (JobState.FAILED, "training_file")


async def test_whatever_breaks_in_one_job_the_next_one_has_its_turn(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    made.library.refused.append(ZeroDivisionError("in a template"))
    jobs = [made.job(name=f"ft:tiny:local:test:{number}") for number in range(2)]
    async with made.supervisor.working():
        first, second = [await until(made, job, has_ended) for job in jobs]
    assert (first.state, dict(first.error or {})["code"]) == (JobState.FAILED, "server_error")
    assert "template" not in str(first.error)
    assert second.state is JobState.SUCCEEDED


async def test_a_checkpoint_that_the_engine_has_no_place_for_is_added_at_the_end(
    tmp_path: Path, engine: sa.Engine
) -> None:
    made = bench(tmp_path, engine, QUICK)
    made.library.refused.append(NoAdapterCapacity("every place is taken"))
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(made, job)
    assert sorted(one.step for one in made.registry.checkpoints(job.id, None, 10).items) == [2, 4, 6]
    assert any("step 2 is added at the job's end" in message for message in messages(made, job))


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (NoAdapterCapacity("every place is taken"), "The job waits: every place is taken"),
        (StoreError("The file can't be kept: No space left on device."), "The job waits: The file can't be kept"),
        (OSError(errno.ENOSPC, "No space left on device", "/secret"), "The job waits: No space is left"),
    ],
)
async def test_what_may_pass_takes_no_job_away(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, trouble: Exception, told: str
) -> None:
    monkeypatch.setattr(supervisor, "_PAUSE_AFTER_FAULT", 0.05)
    made = bench(tmp_path, engine, QUICK)
    job = made.job()
    made.library.unnamable += [trouble, trouble, trouble]
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(made, job)
    assert [message.startswith(told) for message in messages(made, job)].count(True) == 1
    assert made.library.unnamable == []


async def test_servers_that_end_are_no_crashes_of_the_trainer(tmp_path: Path, engine: sa.Engine) -> None:
    """The trainer says nothing for so long that no server hears of anything that it saved."""
    made = bench(tmp_path, engine, "time.sleep(0.5); " + "1 / 0")
    job = made.job()
    for _ in range(4):
        async with made.supervisor.working():
            await until(made, job, lambda record: record.state is JobState.RUNNING)
            await asyncio.sleep(0.1)
    assert made.registry.get(job.id).state is JobState.RUNNING
    assert made.registry.get(job.id).attempts == 0


async def test_a_trainer_without_room_on_its_disk_is_started_again_when_there_may_be(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_PAUSE_AFTER_FAULT", 0.05)
    full = """
room = pathlib.Path(state) / "room"
if not room.exists():
    room.touch(); say(event="failed", message="no space is left on the disk", code="training_disk_full"); sys.exit(2)
"""
    made = bench(tmp_path, engine, QUICK.replace("stopped = []", full + "stopped = []"))
    job = made.job()
    async with made.supervisor.working():
        job = await until(made, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(made, job)
    assert "The job waits: no space is left on the disk" in messages(made, job)


async def test_a_job_that_is_paused_while_its_files_are_looked_at_stays_paused(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(tmp_path, engine, QUICK)
    job, make = made.job(), made.supervisor.plans.make

    def paused_meanwhile(_: object, planned: JobRecord) -> object:
        made.registry.move(planned.id, JobState.PAUSED, 2.0)
        return make(planned)

    monkeypatch.setattr(type(made.supervisor.plans), "make", paused_meanwhile)
    async with made.supervisor.working():
        await asyncio.sleep(0.5)
    assert made.registry.get(job.id).state is JobState.PAUSED
    assert made.registry.get(job.id).recipe is None


async def test_what_breaks_the_supervisor_itself_is_tried_again(
    tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_PAUSE_AFTER_FAULT", 0.05)
    made = bench(tmp_path, engine, QUICK)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"ftjob-{'a' * 24}").mkdir()  # of another database
    counts = made.registry.counts
    faults: list[Exception] = [ValueError("odd"), OSError("no descriptor")]
    monkeypatch.setattr(made.registry, "counts", lambda: counts() if not faults else _raise(faults.pop()))
    job = made.job()
    async with made.supervisor.working():
        assert (await until(made, job, has_ended)).state is JobState.SUCCEEDED


def _raise(error: Exception) -> None:
    raise error


async def test_an_ended_job_leaves_nothing_but_its_log(tmp_path: Path, engine: sa.Engine) -> None:
    made = bench(tmp_path, engine, QUICK)
    job = made.job()
    async with made.supervisor.working():
        await until(made, job, has_ended)
    cancelled = made.job(name="ft:tiny:local:test:2")
    made.supervisor.plans.run(cancelled)
    made.registry.move(cancelled.id, JobState.CANCELLED, 2.0)
    assert [path.name for path in (tmp_path / "jobs" / cancelled.id).iterdir()] == ["recipe.yaml"]
    async with made.supervisor.working():
        await until(made, made.job(name="ft:tiny:local:test:3"), has_ended)
    assert [path.name for path in (tmp_path / "jobs" / job.id).iterdir()] == ["trainer.log"]
    assert list((tmp_path / "jobs" / cancelled.id).iterdir()) == []


@pytest.mark.parametrize("seed", range(2))
async def test_killed_trainers_and_ended_servers_lose_no_job_and_double_none(
    tmp_path: Path, engine: sa.Engine, seed: int
) -> None:
    """Fifty trainers are killed, and after every third moment the server goes away and another one comes."""
    chance = random.Random(seed)  # noqa: S311 - it must repeat
    made = bench(tmp_path, engine, SLOW.replace("0.2", "0.03"))
    jobs: list[JobRecord] = []
    kills = 0
    while kills < 50 or not all(has_ended(made.registry.get(job.id)) for job in jobs):
        if all(has_ended(made.registry.get(job.id)) for job in jobs):
            jobs += [made.job(name=f"ft:tiny:local:test:{len(jobs) + number}") for number in range(3)]
        async with made.supervisor.working():
            for _ in range(3):
                await asyncio.sleep(chance.uniform(0.0, 0.4))
                for child in psutil.Process().children() if kills < 50 else ():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                        kills += 1
    ended = [made.registry.get(job.id) for job in jobs]
    assert {job.state for job in ended} <= {JobState.SUCCEEDED, JobState.FAILED}
    for job in ended:
        if job.state is JobState.FAILED:  # three kills in a row, each before a step was saved
            assert dict(job.error or {})["code"] == "trainer_crashed"
        else:
            assert made.library.added.count((job.name, 6)) >= 1
            assert len(made.registry.checkpoints(job.id, None, 10).items) == 3
    assert "BlockingIOError" not in logs(tmp_path)
