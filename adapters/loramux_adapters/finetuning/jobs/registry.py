"""The registry of jobs: the only module that writes their tables, each change in one transaction."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.errors import FileNotFound, JobNotFound, QueueFull, WrongJobState
from loramux_adapters.finetuning.jobs.file_use import lock_files
from loramux_adapters.finetuning.jobs.ids import new_id
from loramux_adapters.finetuning.jobs.models import (
    CheckpointRecord,
    EventRecord,
    JobEvent,
    JobProgress,
    JobRecord,
    NewJob,
    Page,
)
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import checkpoints, events, jobs
from loramux_adapters.finetuning.jobs.timings import JobTimings

_ENDED = [state for state in JobState if state.has_ended]
_WAITING = [state for state in JobState if state.is_waiting]
_RUNNABLE = [JobState.RUNNING, JobState.QUEUED]
_UNFINISHED = [JobState.RUNNING, *_WAITING]

OnEnded = Callable[[Connection, JobRecord, float], None]
"""Called with each job that ends, in the transaction that ends it."""


class JobRegistry:
    """The jobs in the database `engine`, which must have the tables and enforce foreign keys.

    Methods with a `project` know the jobs of this project alone; those of all if it is None.

    Raises:
        StoreError: the database fails (every method).
        JobNotFound: no job has the id (every method that takes one).
    """

    def __init__(self, engine: Engine, on_ended: OnEnded = lambda _connection, _job, _now: None) -> None:
        self._engine, self._on_ended = engine, on_ended

    def create(self, new: NewJob, now: float, max_waiting: int, *notes: JobEvent) -> JobRecord:
        """Add a job, with the first events of it, then `notes`; return the first job with its idempotency key instead.

        Raises:
            QueueFull: `max_waiting` jobs are waiting.
            FileNotFound: one of its files was deleted.
        """
        try:
            return self._insert(new, now, max_waiting, notes)
        except StoreError as error:
            # Two requests with the same key, at the same moment or long apart: the database lets one job have it.
            found = self.find(new.idempotency_key) if isinstance(error.__cause__, IntegrityError) else None
            if found is None:
                raise
            return found

    def find(self, idempotency_key: str | None) -> JobRecord | None:
        """Return the job that a request with this key created."""
        if idempotency_key is None:
            return None
        query = select(jobs).where(jobs.c.idempotency_key == idempotency_key)
        with _translated_errors(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else _job(row)

    def _insert(self, new: NewJob, now: float, max_waiting: int, notes: Sequence[JobEvent]) -> JobRecord:
        values = {name: getattr(new, name) for name in new.__slots__}
        job = new_id("ftjob")
        state = {"id": job, "state": JobState.VALIDATING_FILES, "created_at": now, "result_files": []}
        with self._transaction() as connection:
            if not lock_files(connection, [file for file in (new.training_file, new.validation_file) if file]):
                raise FileNotFound("A file of the job was deleted meanwhile: upload it again.")
            connection.execute(insert(jobs).values(**values, **state))
            waiting = select(func.count()).where(jobs.c.state.in_(_WAITING), jobs.c.project == new.project)
            if connection.execute(waiting).scalar_one() > max_waiting:
                raise QueueFull(
                    f"{max_waiting} jobs of the project are waiting already, the maximum: try again when one has "
                    "started, cancel one, or set LORAMUX_TRAINING__QUEUE higher on the server."
                )
            _insert_events(connection, job, now, [*_creation_events(job, new), *notes])
            return _get(connection, job)

    def get(self, job: str, project: str | None = None) -> JobRecord:
        """Return a job."""
        with _translated_errors(), self._engine.connect() as connection:
            return _get(connection, job, project)

    def list(
        self,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
        *,
        untagged: bool = False,
        project: str | None = None,
    ) -> Page:
        """Return up to `limit` jobs that follow the job `after`, newest first."""
        query = select(jobs).where(_is_of(project)).order_by(jobs.c.number.desc())
        query = query.where(*(jobs.c.metadata[key].as_string() == value for key, value in (metadata or {}).items()))
        if untagged:
            query = query.where(or_(jobs.c.metadata.is_(null()), cast(jobs.c.metadata, Text) == "null"))
        if after is not None:
            query = query.where(jobs.c.number < self.get(after, project).number)
        return self._page(query, limit, _job)

    def next_job(self, base: str) -> JobRecord | None:
        """Return the next job on this base to work on: the running one, else the oldest queued one.

        Jobs on another base wait until it is served again.
        """
        return next(iter(self._select(base, _RUNNABLE, limit=1)), None)

    def next_unvalidated(self, base: str) -> JobRecord | None:
        """Return the oldest job on this base whose files are to be validated."""
        return next(iter(self._select(base, [JobState.VALIDATING_FILES], limit=1)), None)

    def unfinished(self, base: str) -> Sequence[JobRecord]:
        """Return the running and the waiting jobs on this base, in the order in which they are worked on."""
        return self._select(base, _UNFINISHED)

    def newest_succeeded(self, base: str, limit: int) -> Sequence[JobRecord]:
        """Return the jobs on this base that succeeded last, newest first."""
        query = select(jobs).where(jobs.c.base == base, jobs.c.state == JobState.SUCCEEDED)
        return self._page(query.order_by(jobs.c.number.desc()), limit, _job).items

    def _select(self, base: str, states: Sequence[JobState], limit: int | None = None) -> Sequence[JobRecord]:
        """Return jobs on the base in some states: the running one, then in the order of their creation."""
        query = select(jobs).where(jobs.c.base == base, jobs.c.state.in_(states))
        query = query.order_by(jobs.c.state != JobState.RUNNING, jobs.c.number).limit(limit)
        with _translated_errors(), self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        with _translated_errors(), self._engine.connect() as connection:
            return dict.fromkeys(JobState, 0) | {row[0]: row[1] for row in connection.execute(query)}

    def succeeded(self, since: float = 0.0) -> Sequence[JobRecord]:
        """Return all jobs that succeeded at `since` or later, oldest first."""
        done = (jobs.c.state == JobState.SUCCEEDED, jobs.c.finished_at >= since)
        query = select(jobs).where(*done).order_by(jobs.c.number)
        with _translated_errors(), self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def move(
        self,
        job: str,
        state: JobState,
        now: float,
        *new_events: JobEvent,
        only_from: JobState | None = None,
        project: str | None = None,
        **values: Any,
    ) -> JobRecord:
        """Move the job to `state`, set the columns in `values` and add the events.

        State is checked and changed in one statement, so of two concurrent moves one is refused.

        Raises:
            WrongJobState: the transition is not allowed, or the job is not in the state `only_from`.
        """
        before = [known for known in JobState if known.can_become(state) and only_from in (None, known)]
        times = {"finished_at": now} if state.has_ended else {}
        changed = update(jobs).where(jobs.c.id == job, jobs.c.state.in_(before)).values(state=state, **times, **values)
        with self._transaction() as connection:
            moved = connection.execute(changed).rowcount
            record = _get(connection, job, project)  # raises, which rolls the change back, if it is another project's
            if not moved:
                raise WrongJobState(f"The job is {record.state.value} and can't become {state.value}.")
            _insert_events(connection, job, now, new_events)
            if state.has_ended:
                self._on_ended(connection, record, now)
            return record

    def update_running(self, job: str, now: float, *new_events: JobEvent, **values: Any) -> JobRecord:
        """Add events to a running job and set the columns in `values`.

        Raises:
            WrongJobState: the job is not running, or no longer.
        """
        running = and_(jobs.c.id == job, jobs.c.state == JobState.RUNNING)
        with self._transaction() as connection:
            # Without values the row is updated all the same, so that no event is added to a job that has just ended.
            found = connection.execute(update(jobs).where(running).values(**(values or {"id": job}))).rowcount
            record = _get(connection, job)
            if not found:
                raise WrongJobState(f"The job is {record.state.value}.")
            _insert_events(connection, job, now, new_events)
            return record

    def add_checkpoint(self, job: str, now: float, step: int, version: str, metrics: Mapping[str, Any]) -> None:
        """Add a checkpoint with an event, also to a job that has been stopped.

        It replaces one of the same step, which a resumed run repeats.
        """
        key = {"job": job, "step": step}
        with self._transaction() as connection:
            connection.execute(delete(checkpoints).where(checkpoints.c.job == job, checkpoints.c.step == step))
            row = {"id": new_id("ftckpt"), "at": now, "version": version, "metrics": dict(metrics)}
            connection.execute(insert(checkpoints).values(**key, **row))
            _insert_events(connection, job, now, [JobEvent(f"Checkpoint created at step {step}: {version}")])

    def events(self, job: str, after: str | None, limit: int, project: str | None = None) -> Page:
        """Return up to `limit` events of a job that follow the event `after`, newest first."""
        self.get(job, project)
        return self._of_job(events, job, after, limit, _event)

    def checkpoints(self, job: str, after: str | None, limit: int, project: str | None = None) -> Page:
        """Return up to `limit` checkpoints of a job that follow the checkpoint `after`, newest first."""
        self.get(job, project)
        return self._of_job(checkpoints, job, after, limit, _checkpoint)

    def metrics(self, job: str) -> Sequence[Mapping[str, Any]]:
        """Return the metrics of the job's steps in the order in which they were measured."""
        query = select(events.c.data).where(events.c.job == job, events.c.type == "metrics").order_by(events.c.number)
        with _translated_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalars().all()

    def _of_job(self, table: Table, job: str, after: str | None, limit: int, read: Any) -> Page:
        query = select(table).where(table.c.job == job).order_by(table.c.number.desc())
        if after is not None:
            query = query.where(table.c.number < self._number(table, job, after))
        return self._page(query, limit, read)

    def _number(self, table: Table, job: str, entry: str) -> int:
        """Number of an event or checkpoint; an unknown id raises, since an empty page would look like the last."""
        query = select(table.c.number).where(table.c.id == entry, table.c.job == job)
        with _translated_errors(), self._engine.connect() as connection:
            number = connection.execute(query).scalar()
        if number is None:
            raise JobNotFound("`after` is not the id of an entry of this fine-tuning job.")
        return int(number)

    def _page(self, query: Select[Any], limit: int, read: Any) -> Page:
        with _translated_errors(), self._engine.connect() as connection:
            rows = connection.execute(query.limit(limit + 1)).mappings().all()
        return Page([read(row) for row in rows[:limit]], len(rows) > limit)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with _translated_errors(), self._engine.begin() as connection:
            yield connection


def _is_of(project: str | None) -> ColumnElement[bool]:
    """Return the condition that a job belongs to a project; true for None."""
    return true() if project is None else jobs.c.project == project


def _get(connection: Any, job: str, project: str | None = None) -> JobRecord:
    row = connection.execute(select(jobs).where(jobs.c.id == job, _is_of(project))).mappings().one_or_none()
    if row is None:
        raise JobNotFound("No fine-tuning job has this id.")
    return _job(row)


def _creation_events(job: str, new: NewJob) -> list[JobEvent]:
    events = [JobEvent(f"Created fine-tuning job: {job}"), JobEvent(f"Validating training file: {new.training_file}")]
    if new.validation_file:
        events.append(JobEvent(f"Validating validation file: {new.validation_file}"))
    return events


def _insert_events(connection: Any, job: str, now: float, new_events: Iterable[JobEvent]) -> None:
    rows = [
        {
            "id": new_id("ftevent"),
            "job": job,
            "at": now,
            "level": event.level,
            "type": "message" if event.metrics is None else "metrics",
            "message": event.message,
            "data": None if event.metrics is None else dict(event.metrics),
        }
        for event in new_events
    ]
    if rows:
        connection.execute(insert(events), rows)


def _job(row: RowMapping) -> JobRecord:
    models = {
        "progress": JobProgress.model_validate(row["progress"] or {}),
        "timings": JobTimings.model_validate(row["timings"] or {}),
    }
    return JobRecord(**dict(row) | models)


def _event(row: RowMapping) -> EventRecord:
    return EventRecord(*(row[name] for name in EventRecord.__slots__))


def _checkpoint(row: RowMapping) -> CheckpointRecord:
    return CheckpointRecord(*(row[name] for name in CheckpointRecord.__slots__))


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Hide the database's messages, which may name hosts and files, from clients; logs show them as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The fine-tuning jobs can't be read or written.") from error
