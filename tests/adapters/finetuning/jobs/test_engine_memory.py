"""Jobs that borrow the engine's GPU memory: the engine sleeps only while their trainer runs, and always wakes."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AdapterRejected
from loramux_adapters.finetuning.jobs.engine_memory import ASLEEP, AWAKE, DRAINING
from loramux_adapters.finetuning.jobs.errors import EngineBusy, EngineLost, EngineSleepFailed
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import NAME, JobTestBed, has_ended, job_test_bed, messages, until

pytestmark = pytest.mark.slow

ON_GPU = ("train", "0.02", "", "cuda:0")


@dataclass
class FakeMemory:
    """An engine's memory: a trainer has it to itself, unless it found that it trains `on_cpu`."""

    on_cpu: bool = False
    free_errors: list[Exception] = field(default_factory=list)
    restore_errors: list[Exception] = field(default_factory=list)
    is_free: bool = False
    sleeps: int = 0

    async def free(self) -> None:
        assert not (self.is_free or psutil.Process().children())
        await asyncio.sleep(0)
        if self.free_errors:
            raise self.free_errors.pop()
        self.is_free = True
        self.sleeps += 1

    async def restore(self) -> None:
        assert self.is_free
        assert self.on_cpu or not psutil.Process().children()
        if self.restore_errors:
            raise self.restore_errors.pop()
        self.is_free = False


@pytest.fixture
def bed_with(tmp_path: Path, engine: sa.Engine) -> Callable[..., tuple[JobTestBed, FakeMemory]]:
    """A test bed whose engine lends its memory, and adds adapters only when it is awake."""

    def bed_with(*behavior: str) -> tuple[JobTestBed, FakeMemory]:
        bed, memory = job_test_bed(tmp_path, engine, *behavior), FakeMemory()
        bed.runner.engine_memory = memory
        add = bed.library.add

        async def add_awake(*args: Any, **options: Any) -> Any:
            assert not memory.is_free
            return await add(*args, **options)

        bed.library.add = add_awake  # type: ignore[method-assign]
        return bed, memory

    return bed_with


BedWith = Callable[..., tuple[JobTestBed, FakeMemory]]


async def test_the_engine_sleeps_during_the_training_only(bed_with: BedWith) -> None:
    bed, memory = bed_with(*ON_GPU)
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 1)
        assert memory.is_free
        job = await until(bed, job, has_ended)
    assert (job.state, memory.is_free, memory.sleeps) == (JobState.SUCCEEDED, False, 1), messages(bed, job)
    said = [message for message in messages(bed, job) if message in (DRAINING, ASLEEP, AWAKE)]
    assert said == [DRAINING, ASLEEP, AWAKE]


async def test_checkpoints_wait_for_the_engine_with_their_metrics(bed_with: BedWith) -> None:
    bed, _ = bed_with(*ON_GPU)
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert bed.library.added == [(NAME, 2), (NAME, 4), (NAME, 6), (NAME, 6)]
    checkpoints = bed.registry.checkpoints(job.id, None, 10).items
    assert [(one.step, one.metrics["train_loss"]) for one in checkpoints] == [(6, 1 / 6), (4, 1 / 4), (2, 1 / 2)]
    order = messages(bed, job)
    assert order.index(AWAKE) < min(i for i, message in enumerate(order) if message.startswith("Checkpoint created"))


def is_stopped(bed: JobTestBed) -> Callable[[JobRecord], bool]:
    """Whether the work files of the job have been removed."""
    return lambda job: job.state.has_ended and not bed.runner.planner.folders.output(job).exists()


def metrics_of(bed: JobTestBed, job: JobRecord) -> list[tuple[int, float, float | None]]:
    checkpoints = bed.registry.checkpoints(job.id, None, 10).items
    return [(one.step, one.metrics["train_loss"], one.metrics["full_valid_loss"]) for one in checkpoints]


async def test_a_cancelled_job_keeps_the_checkpoints_that_waited_for_the_engine(bed_with: BedWith) -> None:
    bed, _ = bed_with("train", "0.1", "", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 3)
        bed.registry.move(job.id, JobState.CANCELLED, 2.0)
        bed.supervisor.check_now()
        job = await until(bed, job, is_stopped(bed))
    assert job.state is JobState.CANCELLED
    assert (2, 1 / 2, None) in metrics_of(bed, job)
    assert any(message.startswith("Checkpoint created at step 2") for message in messages(bed, job))


async def test_a_failed_job_keeps_the_checkpoints_that_waited_for_the_engine(bed_with: BedWith) -> None:
    bed, _ = bed_with("export_and_fail", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, is_stopped(bed))
    assert job.state is JobState.FAILED
    assert metrics_of(bed, job) == [(4, 1 / 4, 1 / 8), (2, 1 / 2, 1 / 4)]


@pytest.mark.parametrize(("error", "kept"), [(AdapterRejected("NaN"), [4]), (RuntimeError("the engine is dead"), [])])
async def test_a_checkpoint_of_a_stopped_job_that_can_not_be_added_harms_nothing(
    bed_with: BedWith, error: Exception, kept: list[int]
) -> None:
    bed, _ = bed_with("export_and_fail", "cuda:0")
    bed.library.add_errors = [error]
    jobs = [bed.job(name=f"ft:tiny:local:test:{number}") for number in range(2)]
    async with bed.supervisor.running():
        ended = [await until(bed, job, is_stopped(bed)) for job in jobs]
    assert [[one[0] for one in metrics_of(bed, job)] for job in ended] == [kept, [4, 2]]


async def test_a_paused_job_adds_its_checkpoints_while_it_waits(bed_with: BedWith) -> None:
    """It may be cancelled before it is resumed."""
    bed, _ = bed_with("train", "0.1", "", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 3)
        bed.registry.move(job.id, JobState.PAUSED, 2.0)
        bed.supervisor.check_now()
        await until(bed, job, lambda _: len(bed.library.added) > 0)


async def test_checkpoints_of_before_a_restart_keep_their_metrics(bed_with: BedWith) -> None:
    bed, _ = bed_with("train", "0.1", "", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 3)
    assert bed.library.added == []
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert [step for step, *_ in metrics_of(bed, job)] == [6, 4, 2]
    assert (2, 1 / 2, None) in metrics_of(bed, job)


async def test_the_engine_serves_while_the_job_trains_on_the_cpu(bed_with: BedWith) -> None:
    bed, memory = bed_with("train", "0.05")
    memory.on_cpu = True
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 3)
        assert not memory.is_free
        assert [one.step for one in bed.registry.checkpoints(job.id, None, 10).items] == [2]
        job = await until(bed, job, has_ended)
    assert (job.state, memory.sleeps) == (JobState.SUCCEEDED, 1)


async def test_the_engine_is_awake_between_two_jobs(bed_with: BedWith) -> None:
    bed, memory = bed_with(*ON_GPU)
    jobs = [bed.job(name=f"ft:tiny:local:test:{number}") for number in range(2)]
    async with bed.supervisor.running():
        ended = [await until(bed, job, has_ended) for job in jobs]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 2
    assert (memory.sleeps, memory.is_free) == (2, False)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.PAUSED])
async def test_the_engine_wakes_when_a_client_stops_the_job(bed_with: BedWith, state: JobState) -> None:
    bed, memory = bed_with("train", "0.2", "", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 1)
        bed.registry.move(job.id, state, 2.0)
        bed.supervisor.check_now()
        async with asyncio.timeout(5):
            while memory.is_free:  # noqa: ASYNC110 - as a client polls
                await asyncio.sleep(0.01)
        assert bed.registry.get(job.id).state is state


@pytest.mark.parametrize("behavior", ["crash", "kill_itself", "print_noise", "fail"])
async def test_the_engine_wakes_when_the_trainer_fails(bed_with: BedWith, behavior: str) -> None:
    bed, memory = bed_with(behavior)
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.FAILED
    assert memory.is_free is False
    assert memory.sleeps == (1 if behavior == "fail" else 3)


async def test_the_engine_wakes_when_the_server_stops_and_sleeps_again_for_the_next_one(bed_with: BedWith) -> None:
    bed, memory = bed_with("train", "0.1", "", "cuda:0")
    job = bed.job()
    async with bed.supervisor.running():
        await until(bed, job, lambda record: record.progress.step >= 1)
    assert (memory.is_free, memory.sleeps) == (False, 1)
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert (job.state, memory.is_free, memory.sleeps) == (JobState.SUCCEEDED, False, 2)


async def test_a_job_fails_with_the_reason_if_the_engine_can_not_sleep(bed_with: BedWith) -> None:
    bed, memory = bed_with(*ON_GPU)
    memory.free_errors = [EngineSleepFailed("To sleep, the engine needs 16.0 GB of the host's memory")]
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "engine_sleep_failed"
    assert "16.0 GB" in job.error["message"]
    assert job.progress.step == 0


async def test_a_job_waits_and_says_why_while_requests_do_not_end(bed_with: BedWith) -> None:
    bed, memory = bed_with(*ON_GPU)
    memory.free_errors = [EngineBusy("Requests have run for 120 seconds.", retry_after=0.4) for _ in range(2)]
    job = bed.job()
    began_at = time.monotonic()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
    assert time.monotonic() - began_at >= 0.8  # not the first pauses of a retry
    assert messages(bed, job).count("The job waits: Requests have run for 120 seconds.") == 1


@pytest.mark.parametrize("moment", ["free", "restore"])
async def test_a_job_waits_for_the_next_server_if_the_engine_is_lost(bed_with: BedWith, moment: str) -> None:
    bed, memory = bed_with(*ON_GPU)
    errors: list[Exception] = [EngineLost("The engine could not be woken")]
    setattr(memory, f"{moment}_errors", errors)
    job = bed.job()

    def is_waiting(record: JobRecord) -> bool:
        return "The job waits: The engine could not be woken" in messages(bed, record)

    async with bed.supervisor.running():
        await until(bed, job, is_waiting)
        memory.is_free = False  # the next server's engine
        job = await until(bed, job, has_ended)
    assert job.state is JobState.SUCCEEDED, messages(bed, job)
