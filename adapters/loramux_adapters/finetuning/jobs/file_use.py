"""Which files unfinished jobs need: a file is deleted, or a job created that needs it, but never both."""

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select, update

from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import files, jobs

_ENDED = [state for state in JobState if state.has_ended]


def lock_files(connection: Connection, names: Sequence[str]) -> bool:
    """Lock files until the transaction ends; returns whether all of them exist.

    The update changes nothing. It is a lock in SQLite, too, which has none for single rows.
    """
    locked = connection.execute(update(files).where(files.c.id.in_(names)).values(id=files.c.id))
    return locked.rowcount == len(set(names))


def is_file_in_use(connection: Connection, file: str) -> bool:
    """Whether a job that has not ended needs the file."""
    reads = or_(jobs.c.training_file == file, jobs.c.validation_file == file)
    return connection.execute(select(jobs.c.id).where(reads, jobs.c.state.not_in(_ENDED)).limit(1)).first() is not None
