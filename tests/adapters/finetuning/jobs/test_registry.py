from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.errors import JobNotFound, QueueFull, WrongJobState
from loramux_adapters.finetuning.jobs.models import NewJob, Note
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import NAME


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
    return JobRegistry(engine)


def test_the_begun_job_comes_before_those_that_wait_and_these_in_their_order(registry: JobRegistry) -> None:
    first, second = (registry.create(new(), 1.0, 10) for _ in range(2))
    assert (registry.next("tiny") or second).id == first.id
    for state in (JobState.QUEUED, JobState.RUNNING):
        registry.move(second.id, state, 2.0)
    assert (registry.next("tiny") or first).id == second.id


def test_a_job_on_another_base_waits_until_that_is_served(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    assert registry.next("another") is None
    registry.move(job.id, JobState.QUEUED, 2.0)
    registry.move(job.id, JobState.RUNNING, 2.0)
    assert registry.next("another") is None
    assert registry.next("tiny") is not None


def test_a_page_after_nothing_is_no_empty_one(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    for page in (registry.events, registry.checkpoints):
        with pytest.raises(JobNotFound, match="`after`"):
            page(job.id, "ftevent-gone", 10)


def test_the_queue_has_an_end(registry: JobRegistry) -> None:
    for _ in range(2):
        registry.create(new(), 1.0, most_waiting=2)
    with pytest.raises(QueueFull, match="2 jobs wait already"):
        registry.create(new(), 1.0, most_waiting=2)
    assert registry.counts()[JobState.VALIDATING_FILES] == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(list(JobState)), max_size=8))
def test_only_steps_that_exist_are_made(registry: JobRegistry, steps: list[JobState]) -> None:
    job = registry.create(new(), 1.0, 10**6)
    state = job.state
    for step in steps:
        if state.can_become(step):
            state = registry.move(job.id, step, 2.0, Note("moved")).state
        else:
            with pytest.raises(WrongJobState):
                registry.move(job.id, step, 2.0, Note("not moved"))
        found = registry.get(job.id)
        assert found.state is state
        assert (found.finished_at is not None) == state.has_ended
    assert all(event.message == "moved" for event in registry.events(job.id, None, 100).items)


def test_nothing_is_entered_in_a_job_that_does_not_run(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    with pytest.raises(WrongJobState):
        registry.enter(job.id, 2.0, Note("too early"), attempts=1)
    assert registry.get(job.id).attempts == 0
    assert registry.events(job.id, None, 10).items == []


def test_lists_come_in_pages_with_the_newest_first(registry: JobRegistry) -> None:
    jobs = [registry.create(new(metadata={"team": str(number % 2)}), 1.0, 10).id for number in range(5)]
    first = registry.list(None, 2)
    assert ([job.id for job in first.items], first.has_more) == ([jobs[4], jobs[3]], True)
    rest = registry.list(jobs[3], 5)
    assert ([job.id for job in rest.items], rest.has_more) == (jobs[2::-1], False)
    assert [job.id for job in registry.list(None, 9, {"team": "1"}).items] == [jobs[3], jobs[1]]


def test_files_are_needed_until_their_jobs_end(registry: JobRegistry) -> None:
    job = registry.create(new(validation_file="file-2"), 1.0, 10)
    assert (registry.needs("file-1"), registry.needs("file-2"), registry.needs("file-3")) == (True, True, False)
    registry.move(job.id, JobState.CANCELLED, 2.0)
    assert not registry.needs("file-1")


def test_a_repeated_checkpoint_takes_the_place_of_the_one_before(registry: JobRegistry) -> None:
    job = registry.create(new(), 1.0, 10)
    for version in ("a@1", "a@2"):
        registry.add_checkpoint(job.id, 2.0, 5, version, {"step": 5})
    assert [one.version for one in registry.checkpoints(job.id, None, 10).items] == ["a@2"]


def test_unknown_jobs_and_a_lost_database_are_told_apart(registry: JobRegistry, tmp_path: Path) -> None:
    with pytest.raises(JobNotFound):
        registry.get("ftjob-nothing'; DROP TABLE files; --")
    with pytest.raises(JobNotFound):
        registry.events("ftjob-nothing", None, 10)
    lost = JobRegistry(sa.create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}"))
    with pytest.raises(StoreError) as error:
        lost.next("tiny")
    assert str(tmp_path) not in error.value.message
