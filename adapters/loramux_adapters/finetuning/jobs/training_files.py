"""Uploaded training files and result files of jobs: contents in a folder, metadata in the database."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, true
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_adapters.file_lock import is_locked, lock_descriptor
from loramux_adapters.finetuning.jobs.errors import FileInUse, FileNotFound, FileTooLarge
from loramux_adapters.finetuning.jobs.file_use import is_file_in_use, lock_files
from loramux_adapters.finetuning.jobs.ids import is_id, new_id
from loramux_adapters.finetuning.jobs.models import Page
from loramux_adapters.finetuning.jobs.tables import files
from loramux_adapters.fsync import fsync_path
from loramux_adapters.models import DEFAULT_PROJECT

MAX_FILE_BYTES = 512 * 10**6
"""OpenAI's limit."""
Purpose = Literal["fine-tune", "fine-tune-results"]
RESULTS: Final = "fine-tune-results"
COPY_BYTES = 1 << 20
"""Bytes that are read at a time."""
_INCOMING = "incoming-"


class Readable(Protocol):
    """What can be copied: an open file, or several as one."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file; `filename` was chosen by the client, `report` is the DatasetReport of a training file.

    Times are Unix seconds. A file without `expires_at` stays until it is deleted.
    """

    id: str
    purpose: Purpose
    filename: str
    bytes: int
    created_at: float
    sha256: str
    report: Mapping[str, Any] | None
    expires_at: float | None = None
    project: str = DEFAULT_PROJECT


class TrainingFiles:
    """The files in `folder`, named by their ids, and in the database `engine`. Methods block: call them in threads.

    Methods with a `project` know the files of this project alone; those of all if it is None.

    Raises:
        StoreError: the database or the disk fails (every method).
        FileNotFound: no file has the id (every method that takes one).
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def sweep(self) -> None:
        """Remove files that a killed process did not finish adding or deleting.

        Files that another server is adding to the same folder are locked, and stay.
        """
        with translated_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            unlocked = [path for path in self._folder.iterdir() if not is_locked_path(path)]
            with self._engine.connect() as connection:
                known = set(connection.execute(select(files.c.id)).scalars())
            for path in unlocked:
                if path.name.startswith(_INCOMING) or (is_id(path.name, "file") and path.name not in known):
                    path.unlink(missing_ok=True)

    def add(
        self,
        source: Readable,
        filename: str,
        purpose: Purpose,
        now: float,
        check: Callable[[Path, str], Mapping[str, Any] | None] = lambda *_: None,
        *,
        expires_at: float | None = None,
        project: str = DEFAULT_PROJECT,
        with_record: Callable[[Connection, FileRecord], None] = lambda _connection, _record: None,
    ) -> FileRecord:
        """Add a copy of the rest of `source`; `check` gets the copy and its name, returns its report or raises.

        `with_record` writes to the database in the same transaction as the file's record, or raises to add nothing.

        Raises:
            FileTooLarge: it has more than MAX_FILE_BYTES.
        """
        name = new_id("file")
        with translated_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            incoming = self._folder / f"{_INCOMING}{name}"
            try:
                with create_locked(incoming) as copy:
                    size, sha256 = copy_and_hash(source, copy, MAX_FILE_BYTES)
                    record = FileRecord(
                        name, purpose, filename, size, now, sha256, check(incoming, filename), expires_at, project
                    )
                    incoming.rename(self._folder / name)
                    fsync_path(self._folder)  # before the database refers to it
                    with self._engine.begin() as connection:
                        values = {field: getattr(record, field) for field in FileRecord.__slots__}
                        connection.execute(insert(files).values(**values))
                        with_record(connection, record)
            except BaseException:
                incoming.unlink(missing_ok=True)
                (self._folder / name).unlink(missing_ok=True)
                raise
        return record

    def get(self, file: str, project: str | None = None) -> FileRecord:
        """Return the record of a file."""
        query = select(files).where(files.c.id == file, _is_of(project))
        with translated_errors(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise FileNotFound("No file has this id.")
        return FileRecord(**row)

    def path(self, file: str) -> Path:
        """Return the path of a file's contents."""
        return self._folder / self.get(file).id

    def list(
        self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool, project: str | None = None
    ) -> Page:
        """Return up to `limit` files that follow the file `after`."""
        key = (files.c.created_at, files.c.id)
        order = (column.desc() if newest_first else column for column in key)
        query = select(files).where(_is_of(project)).order_by(*order).limit(limit + 1)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            last = self.get(after, project)
            later = (files.c.created_at > last.created_at) | (
                (files.c.created_at == last.created_at) & (files.c.id > last.id)
            )
            query = query.where(files.c.id != last.id, ~later if newest_first else later)
        with translated_errors(), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return Page([FileRecord(**row) for row in rows[:limit]], len(rows) > limit)

    def delete_expired(self, now: float) -> None:
        """Delete the files that have expired, except those in use, which a later call deletes."""
        query = select(files.c.id).where(files.c.expires_at <= now)
        with translated_errors(), self._engine.connect() as connection:
            expired = connection.execute(query).scalars().all()
        for file in expired:
            with suppress(FileInUse, FileNotFound):  # the latter: another server has deleted it
                self.delete(file)

    def delete(self, file: str, project: str | None = None) -> None:
        """Delete a file that no unfinished job needs.

        Raises:
            FileInUse: one does.
        """
        name = self.get(file, project).id
        with translated_errors():
            with self._engine.begin() as connection:
                lock_files(connection, [name])
                if is_file_in_use(connection, name):
                    raise FileInUse("An unfinished job needs the file: cancel the job first.")
                connection.execute(delete(files).where(files.c.id == name))
            (self._folder / name).unlink(missing_ok=True)


def _is_of(project: str | None) -> ColumnElement[bool]:
    """Return the condition that a file belongs to a project; true for None."""
    return true() if project is None else files.c.project == project


def copy_and_hash(source: Readable, copy: BinaryIO, limit: int) -> tuple[int, str]:
    """Copy the rest of a source and fsync the copy; returns its size and SHA-256.

    Raises:
        FileTooLarge: there are more than `limit` bytes.
        OSError: the source can't be read, or the copy not written.
    """
    digest, size = hashlib.sha256(), 0
    while piece := source.read(COPY_BYTES):
        size += len(piece)
        if size > limit:
            raise FileTooLarge(f"The file is too large: expected at most {limit} bytes.")
        digest.update(piece)
        copy.write(piece)
    copy.flush()
    os.fsync(copy.fileno())
    return size, digest.hexdigest()


@contextmanager
def create_locked(path: Path) -> Iterator[BinaryIO]:
    """Create a file that is locked until the context ends, even when renamed; a kill releases the lock."""
    with path.open("xb") as file:
        lock_descriptor(file.fileno())
        yield file


def is_locked_path(path: Path) -> bool:
    """Whether a process holds the lock of a file from `create_locked`, or has just renamed or removed it."""
    try:
        return is_locked(path)
    except FileNotFoundError:
        return True


@contextmanager
def translated_errors() -> Iterator[None]:
    """Hide messages of the database and the system, which may name hosts and paths, from clients."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The files can't be read or written.") from error
    except OSError as error:
        raise StoreError(f"The file can't be stored: {error.strerror or 'the disk failed'}.") from error
