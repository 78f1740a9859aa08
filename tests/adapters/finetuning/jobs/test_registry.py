from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.errors import FileInUse, FileNotFound, JobNotFound, QueueFull, WrongJobState
from loramux_adapters.finetuning.jobs.file_use import is_file_in_use
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord, NewJob
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from tests.helpers.fine_tuning_jobs import NAME
from tests.helpers.stored_files import add_files


def new(**changes: object) -> NewJob:
    values: dict[str, object] = {
        "base": "tiny",
        "name": NAME,
        "training_file": "file-1",
        "validation_file": None,
        "suffix": None,
        "seed": 1,
        "wanted": {},
        "metadata": None,
        "created_by": "test",
    }
    return NewJob(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def registry(engine: sa.Engine) -> JobRegistry:
    add_files(engine, "file-1", "file-2")
    return JobRegistry(engine)


def test_the_running_job_comes_before_the_waiting_ones_in_their_order(registry: JobRegistry) -> None:
    first, second = (registry.create(new(), 1.0, 10) for _ in range(2))
    for job in (second, first):
        registry.move(job.id, JobState.QUEUED, 2.0)
    assert (registry.next_job("tiny") or second).id == first.id
    registry.move(second.id, JobState.RUNNING, 2.0)
    assert (registry.next_job("tiny") or first).id == second.id
    assert [job.id for job in registry.unfinished("tiny")] == [second.id, first.id]


def test_a_job_on_another_base_waits_until_that_is_served(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    assert registry.next_job("another") is None
    registry.move(job.id, JobState.QUEUED, 2.0)
    registry.move(job.id, JobState.RUNNING, 2.0)
    assert registry.next_job("another") is None
    assert registry.next_job("tiny") is not None


def test_a_page_after_an_unknown_id_is_refused(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    for page in (registry.events, registry.checkpoints):
        with pytest.raises(JobNotFound, match="`after`"):
            page(job.id, "ftevent-gone", 10)


def test_a_request_that_is_sent_again_creates_no_second_job(registry: JobRegistry) -> None:
    first = registry.create(new(idempotency_key="a"), 1.0, 10)
    again = registry.create(new(idempotency_key="a", suffix="other"), 2.0, 10)
    assert again == first
    assert registry.find("a") == first
    assert registry.create(new(idempotency_key="b"), 3.0, 10).id != first.id
    assert [registry.create(new(), 4.0, 10).id for _ in range(2)] != [first.id, first.id]
    assert registry.find("c") is registry.find(None) is None


def test_a_full_queue_refuses_jobs(registry: JobRegistry) -> None:
    for _ in range(2):
        registry.create(new(), 1.0, max_waiting=2)
    with pytest.raises(QueueFull, match="2 jobs of the project are waiting already"):
        registry.create(new(), 1.0, max_waiting=2)
    registry.create(new(project="other"), 1.0, max_waiting=2)  # nobody fills the queue of another project
    assert registry.counts()[JobState.VALIDATING_FILES] == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(list(JobState)), max_size=8))
def test_only_allowed_transitions_are_made(registry: JobRegistry, steps: list[JobState]) -> None:
    job = registry.create(new(), 1.0, 10**6)
    state = job.state
    for step in steps:
        if state.can_become(step):
            state = registry.move(job.id, step, 2.0, JobEvent("moved")).state
        else:
            with pytest.raises(WrongJobState):
                registry.move(job.id, step, 2.0, JobEvent("not moved"))
        found = registry.get(job.id)
        assert found.state is state
        assert (found.finished_at is not None) == state.has_ended
    assert "not moved" not in {event.message for event in registry.events(job.id, None, 100).items}


def test_no_event_is_added_to_a_job_that_does_not_run(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    with pytest.raises(WrongJobState):
        registry.update_running(job.id, 2.0, JobEvent("too early"), attempts=1)
    assert registry.get(job.id).attempts == 0
    assert "too early" not in {event.message for event in registry.events(job.id, None, 10).items}


def test_lists_are_paged_newest_first(registry: JobRegistry) -> None:
    jobs = [registry.create(new(metadata={"team": str(number % 2)}), 1.0, 10).id for number in range(5)]
    first = registry.list(None, 2)
    assert ([job.id for job in first.items], first.has_more) == ([jobs[4], jobs[3]], True)
    rest = registry.list(jobs[3], 5)
    assert ([job.id for job in rest.items], rest.has_more) == (jobs[2::-1], False)
    assert [job.id for job in registry.list(None, 9, {"team": "1"}).items] == [jobs[3], jobs[1]]


def test_files_are_in_use_until_their_jobs_end(registry: JobRegistry, engine: sa.Engine) -> None:
    job = registry.create(new(validation_file="file-2"), 1.0, 10)

    def in_use() -> list[bool]:
        with engine.connect() as connection:
            return [is_file_in_use(connection, name) for name in ("file-1", "file-2", "file-3")]

    assert in_use() == [True, True, False]
    registry.move(job.id, JobState.CANCELLED, 2.0)
    assert in_use() == [False, False, False]


@pytest.mark.parametrize("gone", ["training_file", "validation_file"])
def test_no_job_is_created_whose_file_was_deleted_meanwhile(registry: JobRegistry, gone: str) -> None:
    with pytest.raises(FileNotFound, match="was deleted"):
        registry.create(new(**{gone: "file-3"}), 1.0, 10)
    assert registry.list(None, 10).items == []


def test_a_file_of_an_unfinished_job_can_not_be_deleted(
    registry: JobRegistry, engine: sa.Engine, tmp_path: Path
) -> None:
    kept = TrainingFiles(engine, tmp_path)
    job = registry.create(new(), 1.0, 10)
    with pytest.raises(FileInUse, match="cancel the job first"):
        kept.delete("file-1")
    registry.move(job.id, JobState.CANCELLED, 2.0)
    kept.delete("file-1")
    with pytest.raises(FileNotFound):
        kept.get("file-1")


def test_a_repeated_checkpoint_replaces_the_earlier_one(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    for version in ("a@1", "a@2"):
        registry.add_checkpoint(job.id, 2.0, 5, version, {"step": 5})
    assert [one.version for one in registry.checkpoints(job.id, None, 10).items] == ["a@2"]
    assert registry.events(job.id, None, 1).items[0].message == "Checkpoint created at step 5: a@2"


def test_an_unknown_job_and_an_unreachable_database_are_different_errors(registry: JobRegistry, tmp_path: Path) -> None:
    with pytest.raises(JobNotFound):
        registry.get("ftjob-nothing'; DROP TABLE files; --")
    with pytest.raises(JobNotFound):
        registry.events("ftjob-nothing", None, 10)
    lost = JobRegistry(sa.create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}"))
    with pytest.raises(StoreError) as error:
        lost.next_job("tiny")
    assert str(tmp_path) not in error.value.message


def test_the_end_of_a_job_and_what_is_written_about_it_are_one_transaction(engine: sa.Engine) -> None:
    told: list[tuple[str, JobState]] = []

    def record(_: sa.Connection, job: JobRecord, now: float) -> None:
        if now == 2.0:
            raise sa.exc.OperationalError("insert", {}, Exception("no such table"))
        told.append((job.id, job.state))

    add_files(engine, "file-1", "file-2")
    registry = JobRegistry(engine, record)
    job = registry.create(new(), 1.0, 10, JobEvent("a note", "warn"))
    assert registry.events(job.id, None, 10).items[0].message == "a note"
    registry.move(job.id, JobState.QUEUED, 1.0)
    assert told == []
    with pytest.raises(StoreError):
        registry.move(job.id, JobState.CANCELLED, 2.0)
    assert registry.get(job.id).state is JobState.QUEUED
    registry.move(job.id, JobState.CANCELLED, 3.0)
    assert told == [(job.id, JobState.CANCELLED)]
