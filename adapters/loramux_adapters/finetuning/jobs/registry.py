"""What is known of jobs: the one place that changes it, each change in one transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, Table, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.errors import JobNotFound, QueueFull, WrongJobState
from loramux_adapters.finetuning.jobs.ids import new_id
from loramux_adapters.finetuning.jobs.models import (
    CheckpointRecord,
    EventRecord,
    JobRecord,
    NewJob,
    Note,
    Page,
    Progress,
)
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import checkpoints, events, jobs

_ENDED = [state for state in JobState if state.has_ended]
_WAITING = [state for state in JobState if state.waits]
_ON_THEIR_WAY = [JobState.RUNNING, *_WAITING]


class JobRegistry:
    """The jobs in the database `engine`, which must hold the tables and enforce foreign keys.

    Every method raises StoreError if the database fails, and JobNotFound where it is asked about a job that is not
    there.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, new: NewJob, now: float, most_waiting: int) -> JobRecord:
        """Enter a job; raises QueueFull if `most_waiting` wait already."""
        values = {name: getattr(new, name) for name in new.__slots__}
        job = new_id("ftjob")
        state = {"id": job, "state": JobState.VALIDATING_FILES, "created_at": now, "result_files": []}
        with self._changing() as connection:
            connection.execute(insert(jobs).values(**values, **state))
            waiting = select(func.count()).where(jobs.c.state.in_(_WAITING))
            if connection.execute(waiting).scalar_one() > most_waiting:
                raise QueueFull(
                    f"{most_waiting} jobs wait already: come back when one has begun, or cancel one. "
                    "The server's LORAMUX_TRAINING__QUEUE says how many may wait."
                )
            return _get(connection, job)

    def get(self, job: str) -> JobRecord:
        """Return a job."""
        with _translated(), self._engine.connect() as connection:
            return _get(connection, job)

    def list(self, after: str | None, limit: int, metadata: Mapping[str, str] | None = None) -> Page:
        """Return up to `limit` jobs, the newest first, from the one that follows `after` on."""
        query = select(jobs).order_by(jobs.c.number.desc())
        query = query.where(*(jobs.c.metadata[key].as_string() == value for key, value in (metadata or {}).items()))
        if after is not None:
            query = query.where(jobs.c.number < self.get(after).number)
        return self._page(query, limit, _job)

    def next(self, base: str) -> JobRecord | None:
        """Return the job on this base to work on: the one that was begun, else the one that waits longest.

        Those on another base wait until it is served again.
        """
        begun = (jobs.c.state != JobState.RUNNING, jobs.c.number)
        ready = (jobs.c.base == base, jobs.c.state.in_(_ON_THEIR_WAY))
        query = select(jobs).where(*ready).order_by(*begun).limit(1)
        with _translated(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _job(row)

    def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        with _translated(), self._engine.connect() as connection:
            return dict.fromkeys(JobState, 0) | {row[0]: row[1] for row in connection.execute(query)}

    def needs(self, file: str) -> bool:
        """Whether a job that has not ended is to read the file."""
        reads = or_(jobs.c.training_file == file, jobs.c.validation_file == file)
        query = select(jobs.c.id).where(reads, jobs.c.state.not_in(_ENDED)).limit(1)
        with _translated(), self._engine.connect() as connection:
            return connection.execute(query).one_or_none() is not None

    def move(
        self,
        job: str,
        state: JobState,
        now: float,
        *notes: Note,
        only_from: JobState | None = None,
        **values: Any,
    ) -> JobRecord:
        """Let the job become `state`, with what belongs to that; raises WrongJobState where no step leads there.

        What is there to decide is decided here, in one statement: of two who move a job, one is refused.
        """
        before = [known for known in JobState if known.can_become(state) and only_from in (None, known)]
        times = {"finished_at": now} if state.has_ended else {}
        changed = update(jobs).where(jobs.c.id == job, jobs.c.state.in_(before)).values(state=state, **times, **values)
        with self._changing() as connection:
            moved = connection.execute(changed).rowcount
            record = _get(connection, job)
            if not moved:
                raise WrongJobState(f"The job is {record.state.value} and can't become {state.value}.")
            _note(connection, job, now, notes)
            return record

    def enter(self, job: str, now: float, *notes: Note, **values: Any) -> JobRecord:
        """Write down what happened in a job that runs; raises WrongJobState if it does not run (any more)."""
        running = and_(jobs.c.id == job, jobs.c.state == JobState.RUNNING)
        with self._changing() as connection:
            # Without values it is written all the same, so that nothing is entered in a job that has just ended.
            found = connection.execute(update(jobs).where(running).values(**(values or {"id": job}))).rowcount
            record = _get(connection, job)
            if not found:
                raise WrongJobState(f"The job is {record.state.value}.")
            _note(connection, job, now, notes)
            return record

    def add_checkpoint(self, job: str, now: float, step: int, version: str, metrics: Mapping[str, Any]) -> None:
        """Enter a checkpoint; that of the same step takes the place of the one before, which a resumed run repeats."""
        key = {"job": job, "step": step}
        with self._changing() as connection:
            connection.execute(delete(checkpoints).where(checkpoints.c.job == job, checkpoints.c.step == step))
            row = {"id": new_id("ftckpt"), "at": now, "version": version, "metrics": dict(metrics)}
            connection.execute(insert(checkpoints).values(**key, **row))

    def events(self, job: str, after: str | None, limit: int) -> Page:
        """Return up to `limit` events, the newest first, from the one that follows `after` on."""
        return self._of_job(events, job, after, limit, _event)

    def checkpoints(self, job: str, after: str | None, limit: int) -> Page:
        """Return up to `limit` checkpoints, the newest first, from the one that follows `after` on."""
        return self._of_job(checkpoints, job, after, limit, _checkpoint)

    def metrics(self, job: str) -> Sequence[Mapping[str, Any]]:
        """Return what was measured at the job's steps, in the order in which it was."""
        query = select(events.c.data).where(events.c.job == job, events.c.type == "metrics").order_by(events.c.number)
        with _translated(), self._engine.connect() as connection:
            return connection.execute(query).scalars().all()

    def tokens_per_second(self, base: str) -> float | None:
        """Return how fast the last job on the base was trained, None if there was none."""
        done = (jobs.c.base == base, jobs.c.state == JobState.SUCCEEDED)
        query = select(jobs.c.progress).where(*done).order_by(jobs.c.number.desc()).limit(1)
        with _translated(), self._engine.connect() as connection:
            progress = Progress.model_validate(connection.execute(query).scalar() or {})
        return progress.tokens / progress.seconds if progress.tokens and progress.seconds else None

    def _of_job(self, table: Table, job: str, after: str | None, limit: int, read: Any) -> Page:
        self.get(job)
        query = select(table).where(table.c.job == job).order_by(table.c.number.desc())
        if after is not None:
            query = query.where(table.c.number < self._number(table, job, after))
        return self._page(query, limit, read)

    def _number(self, table: Table, job: str, entry: str) -> int:
        """Where an event or checkpoint stands; raises JobNotFound, as a page after nothing would look like the last."""
        query = select(table.c.number).where(table.c.id == entry, table.c.job == job)
        with _translated(), self._engine.connect() as connection:
            number = connection.execute(query).scalar()
        if number is None:
            raise JobNotFound("The fine-tuning job has nothing with the id that `after` has.")
        return int(number)

    def _page(self, query: Select[Any], limit: int, read: Any) -> Page:
        with _translated(), self._engine.connect() as connection:
            rows = connection.execute(query.limit(limit + 1)).mappings().all()
        return Page([read(row) for row in rows[:limit]], len(rows) > limit)

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        with _translated(), self._engine.begin() as connection:
            yield connection


def _get(connection: Any, job: str) -> JobRecord:
    row = connection.execute(select(jobs).where(jobs.c.id == job)).mappings().one_or_none()
    if row is None:
        raise JobNotFound("No fine-tuning job has this id.")
    return _job(row)


def _note(connection: Any, job: str, now: float, notes: Iterable[Note]) -> None:
    rows = [
        {
            "id": new_id("ftevent"),
            "job": job,
            "at": now,
            "level": note.level,
            "type": "message" if note.metrics is None else "metrics",
            "message": note.message,
            "data": None if note.metrics is None else dict(note.metrics),
        }
        for note in notes
    ]
    if rows:
        connection.execute(insert(events), rows)


def _job(row: RowMapping) -> JobRecord:
    return JobRecord(**dict(row) | {"progress": Progress.model_validate(row["progress"] or {})})


def _event(row: RowMapping) -> EventRecord:
    return EventRecord(*(row[name] for name in EventRecord.__slots__))


def _checkpoint(row: RowMapping) -> CheckpointRecord:
    return CheckpointRecord(*(row[name] for name in CheckpointRecord.__slots__))


@contextmanager
def _translated() -> Iterator[None]:
    """Keep the database's words, which may name hosts and files, from clients; the log has them as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The fine-tuning jobs can't be read or written.") from error
