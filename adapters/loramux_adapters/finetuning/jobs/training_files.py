"""Files that were uploaded to be trained on, or made by jobs: bytes in a folder, all else in the database."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.errors import FileNotFound, FileTooLarge
from loramux_adapters.finetuning.jobs.ids import is_id, new_id
from loramux_adapters.finetuning.jobs.models import Page
from loramux_adapters.finetuning.jobs.tables import files
from loramux_adapters.finetuning.training_state import sync

MOST_BYTES = 512 * 10**6
"""As much as OpenAI takes."""
Purpose = Literal["fine-tune", "fine-tune-results"]
_COPY_BYTES = 1 << 20
_INCOMING = "incoming-"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file: `filename` is what the client calls it, `report` what was found in it."""

    id: str
    purpose: Purpose
    filename: str
    bytes: int
    created_at: float
    sha256: str
    report: Mapping[str, Any] | None


class TrainingFiles:
    """The files in `folder`, named by their ids, and the database `engine`.

    Every method runs in threads and raises StoreError if database or disk fail, FileNotFound for an unknown id.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def sweep(self) -> None:
        """Remove what an ended process did not finish, or did not remove.

        Another server of the same folder may be taking something in, which it holds meanwhile.
        """
        with _translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            nobodys = [path for path in self._folder.iterdir() if not _is_held(path)]
            with self._engine.connect() as connection:
                known = set(connection.execute(select(files.c.id)).scalars())
            for path in nobodys:
                if path.name.startswith(_INCOMING) or (is_id(path.name, "file") and path.name not in known):
                    path.unlink(missing_ok=True)

    def add(
        self,
        source: BinaryIO,
        filename: str,
        purpose: Purpose,
        now: float,
        check: Callable[[Path], Mapping[str, Any] | None] = lambda _: None,
    ) -> FileRecord:
        """Take a copy of `source` in, if `check`, which returns its report, raises nothing. Raises FileTooLarge too."""
        name = new_id("file")
        with _translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            incoming = self._folder / f"{_INCOMING}{name}"
            try:
                with _held(incoming) as copy:
                    size, sha256 = _copied(source, copy)
                    record = FileRecord(name, purpose, filename, size, now, sha256, check(incoming))
                    incoming.rename(self._folder / name)
                    sync(self._folder)  # before the database says that it is there
                    with self._engine.begin() as connection:
                        values = {field: getattr(record, field) for field in FileRecord.__slots__}
                        connection.execute(insert(files).values(**values))
            except BaseException:
                incoming.unlink(missing_ok=True)
                (self._folder / name).unlink(missing_ok=True)
                raise
        return record

    def get(self, file: str) -> FileRecord:
        """Return what is known of a file."""
        with _translated(), self._engine.connect() as connection:
            row = connection.execute(select(files).where(files.c.id == file)).mappings().one_or_none()
        if row is None:
            raise FileNotFound("No file has this id.")
        return FileRecord(**row)

    def path(self, file: str) -> Path:
        """Return where a file's bytes are."""
        return self._folder / self.get(file).id

    def list(self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool) -> Page:
        """Return up to `limit` files from the one that follows `after` on."""
        key = (files.c.created_at, files.c.id)
        query = select(files).order_by(*(column.desc() if newest_first else column for column in key)).limit(limit + 1)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            last = self.get(after)
            later = (files.c.created_at > last.created_at) | (
                (files.c.created_at == last.created_at) & (files.c.id > last.id)
            )
            query = query.where(files.c.id != last.id, ~later if newest_first else later)
        with _translated(), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return Page([FileRecord(**row) for row in rows[:limit]], len(rows) > limit)

    def delete(self, file: str) -> None:
        """Forget a file."""
        name = self.get(file).id
        with _translated():
            with self._engine.begin() as connection:
                connection.execute(delete(files).where(files.c.id == name))
            (self._folder / name).unlink(missing_ok=True)


def _copied(source: BinaryIO, copy: BinaryIO) -> tuple[int, str]:
    """Copy all of it to the disk; returns its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    source.seek(0)
    while piece := source.read(_COPY_BYTES):
        size += len(piece)
        if size > MOST_BYTES:
            raise FileTooLarge(f"A file may have {MOST_BYTES} bytes at most.")
        digest.update(piece)
        copy.write(piece)
    copy.flush()
    os.fsync(copy.fileno())
    return size, digest.hexdigest()


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """Make a file that is this process's until the context ends, also under another name; a kill lets it go."""
    with path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # who held it has just given it its name, or removed it
        return True
    return False


@contextmanager
def _translated() -> Iterator[None]:
    """Keep the database's and the system's words, which may name hosts and paths, from clients."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The files can't be read or written.") from error
    except OSError as error:
        raise StoreError(f"The file can't be kept: {error.strerror or 'the disk failed'}.") from error
