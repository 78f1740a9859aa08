"""Files that are uploaded in parts: parts in a folder, their records in the database, so that a restart loses none."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from loramux_adapters.errors import AdapterError
from loramux_adapters.finetuning.jobs.concatenated_files import ConcatenatedFiles
from loramux_adapters.finetuning.jobs.errors import FileTooLarge, InvalidFile, UploadNotFound, WrongUploadState
from loramux_adapters.finetuning.jobs.ids import new_id
from loramux_adapters.finetuning.jobs.tables import upload_parts, uploads
from loramux_adapters.finetuning.jobs.training_files import (
    COPY_BYTES,
    FileRecord,
    Purpose,
    Readable,
    TrainingFiles,
    copy_and_hash,
    create_locked,
    is_locked_path,
    translated_errors,
)
from loramux_adapters.fsync import fsync_path
from loramux_adapters.models import DEFAULT_PROJECT

MAX_PART_BYTES = 64 * 1024 * 1024
"""OpenAI's limit."""
MAX_PARTS = 10_000
UPLOAD_SECONDS = 3600.0
"""OpenAI's: an upload that is not completed by then expires."""
_GRACE_SECONDS = 600.0
"""Time after expiry in which the parts stay: a completion that began before it may still read them."""
_INCOMING = "incoming-"

Status = Literal["pending", "completed", "cancelled", "expired"]
Check = Callable[[Path, str], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An upload of a file with `bytes` bytes, which is `file` if completed, and then expires after `file_seconds`."""

    id: str
    filename: str
    purpose: Purpose
    bytes: int
    created_at: float
    expires_at: float
    file_seconds: int | None
    status: Status
    file: str | None
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part of an upload."""

    id: str
    upload: str
    bytes: int
    created_at: float


class Uploads:
    """The uploads whose parts are in `folder`; completed ones are among `files`. Methods block: call them in threads.

    Raises:
        StoreError: the database or the disk fails (every method).
        UploadNotFound: no upload has the id (every method that takes one).
        WrongUploadState: the upload is not pending (every method that changes one).
    """

    def __init__(self, engine: Engine, folder: Path, files: TrainingFiles) -> None:
        self._engine, self._folder, self._files = engine, folder, files

    def create(
        self,
        filename: str,
        purpose: Purpose,
        size: int,
        file_seconds: int | None,
        now: float,
        project: str = DEFAULT_PROJECT,
    ) -> UploadRecord:
        """Start an upload of a file with `size` bytes, which expires `file_seconds` after it is completed."""
        end, name = now + UPLOAD_SECONDS, new_id("upload")
        upload = UploadRecord(name, filename, purpose, size, now, end, file_seconds, "pending", None, project)
        values = {field: getattr(upload, field) for field in UploadRecord.__slots__}
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(insert(uploads).values(**values))
        return upload

    def add_part(self, upload: str, source: Readable, now: float) -> PartRecord:
        """Add a copy of `source` to a pending upload.

        Raises:
            FileTooLarge: it has more than MAX_PART_BYTES.
            InvalidFile: it is empty.
        """
        self._pending(upload, now)
        name = new_id("part")
        incoming, path = self._folder / f"{_INCOMING}{name}", self._folder / name
        with translated_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with create_locked(incoming) as copy:
                    size, _ = copy_and_hash(source, copy, MAX_PART_BYTES)
                    incoming.rename(path)
                    fsync_path(self._folder)  # before the database refers to it
                    part = PartRecord(name, upload, size, now)
                    self._insert_part(part)
            except BaseException:
                incoming.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise
        return part

    def complete(self, upload: str, parts: Sequence[str], md5: str | None, now: float, check: Check) -> FileRecord:
        """Make a file of the parts, in this order; `check` returns its report, or raises to leave the upload pending.

        The repetition of a completion, by a client that got no response, returns its file again.

        Raises:
            FileNotFound: the completion is repeated, and its file was deleted meanwhile.
            InvalidFile: a part is unknown or named twice, or the bytes are not the announced ones.
        """
        try:
            return self._complete(upload, parts, md5, now, check)
        except AdapterError:
            # Another completion may have been quicker, before this one or during it.
            if (file := self.get(upload, now).file) is None:
                raise
            return self._files.get(file)

    def _complete(self, upload: str, parts: Sequence[str], md5: str | None, now: float, check: Check) -> FileRecord:
        record = self._pending(upload, now)
        paths = self._paths(record, parts)

        def finish(connection: Connection, file: FileRecord) -> None:
            self._set_status(connection, upload, "completed", file.id)

        with translated_errors(), ConcatenatedFiles(paths) as source:
            _require_md5(source, md5)
            expires_at = None if record.file_seconds is None else now + record.file_seconds
            file = self._files.add(
                source,
                record.filename,
                record.purpose,
                now,
                check,
                expires_at=expires_at,
                project=record.project,
                with_record=finish,
            )
        self._remove_parts([upload])
        return file

    def cancel(self, upload: str, now: float) -> UploadRecord:
        """Cancel a pending upload; its parts are removed."""
        self._pending(upload, now)
        with translated_errors(), self._engine.begin() as connection:
            self._set_status(connection, upload, "cancelled")
        self._remove_parts([upload])
        return self.get(upload, now)

    def get(self, upload: str, now: float, project: str | None = None) -> UploadRecord:
        """Return an upload of this project, or of any if it is None."""
        with translated_errors(), self._engine.connect() as connection:
            row = connection.execute(select(uploads).where(uploads.c.id == upload)).mappings().one_or_none()
        if row is None or project not in (None, row["project"]):
            raise UploadNotFound("No upload has this id.")
        is_expired = row["status"] == "pending" and row["expires_at"] <= now
        return UploadRecord(**(dict(row) | ({"status": "expired"} if is_expired else {})))

    def delete_expired(self, now: float) -> None:
        """Mark expired uploads, and remove the parts of all that are not pending."""
        expired = (uploads.c.status == "pending", uploads.c.expires_at <= now - _GRACE_SECONDS)
        with translated_errors():
            with self._engine.begin() as connection:
                connection.execute(update(uploads).where(*expired).values(status="expired"))
                left = select(upload_parts.c.upload).join(uploads).where(uploads.c.status != "pending").distinct()
                ended = connection.execute(left).scalars().all()
            self._remove_parts(ended)

    def sweep(self) -> None:
        """Remove parts that a killed process did not finish adding or removing."""
        with translated_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            unlocked = [path for path in self._folder.iterdir() if not is_locked_path(path)]
            with self._engine.connect() as connection:
                known = set(connection.execute(select(upload_parts.c.id)).scalars())
            for path in unlocked:
                if path.name not in known:
                    path.unlink(missing_ok=True)

    def _pending(self, upload: str, now: float) -> UploadRecord:
        record = self.get(upload, now)
        if record.status != "pending":
            raise WrongUploadState(f"The upload is {record.status}: start another one.")
        return record

    def _insert_part(self, part: PartRecord) -> None:
        """Add a part's record, unless the upload is no longer pending or has too many parts.

        Parts may be sent twice, by clients that got no response, so there may be twice the announced bytes.
        """
        if part.bytes == 0:
            raise InvalidFile("The part is empty: expected at least 1 byte.", param="data")
        with self._engine.begin() as connection:
            self._set_status(connection, part.upload, "pending")  # and have other parts wait
            present = select(func.count(), func.sum(upload_parts.c.bytes)).where(upload_parts.c.upload == part.upload)
            count, size = connection.execute(present).one()
            announced = connection.execute(select(uploads.c.bytes).where(uploads.c.id == part.upload)).scalar_one()
            if part.bytes > announced:
                raise FileTooLarge(f"The part has {part.bytes} bytes, more than the whole upload ({announced} bytes).")
            if count >= MAX_PARTS or (size or 0) + part.bytes > 2 * announced:
                raise WrongUploadState(
                    f"The upload has {count} parts with {size} bytes already, of {announced}: complete or cancel it."
                )
            connection.execute(insert(upload_parts).values(**{f: getattr(part, f) for f in PartRecord.__slots__}))

    def _set_status(self, connection: Connection, upload: str, status: Status, file: str | None = None) -> None:
        pending = update(uploads).where(uploads.c.id == upload, uploads.c.status == "pending")
        if not connection.execute(pending.values(status=status, file=file)).rowcount:
            raise WrongUploadState("The upload was completed, cancelled or expired meanwhile.")

    def _paths(self, upload: UploadRecord, parts: Sequence[str]) -> list[Path]:
        """Return the paths of the parts, whose ids are names of files only if the database has them."""
        query = select(upload_parts.c.id, upload_parts.c.bytes).where(upload_parts.c.upload == upload.id)
        with translated_errors(), self._engine.connect() as connection:
            sizes = {row.id: row.bytes for row in connection.execute(query)}
        if len(set(parts)) != len(parts) or not set(parts) <= set(sizes):
            raise InvalidFile("part_ids: expected parts of this upload, each at most once.", param="part_ids")
        size = sum(sizes[part] for part in parts)
        if size != upload.bytes:
            raise InvalidFile(
                f"The parts have {size} bytes; expected {upload.bytes}, as in the creation of the upload.",
                param="part_ids",
            )
        return [self._folder / part for part in parts]

    def _remove_parts(self, ended: Sequence[str]) -> None:
        """Remove files before records, so that what a kill leaves is found again."""
        of_them = upload_parts.c.upload.in_(ended)
        with translated_errors():
            with self._engine.connect() as connection:
                names = connection.execute(select(upload_parts.c.id).where(of_them)).scalars().all()
            for name in names:
                (self._folder / name).unlink(missing_ok=True)
            with self._engine.begin() as connection:
                connection.execute(delete(upload_parts).where(of_them))


def _require_md5(source: ConcatenatedFiles, md5: str | None) -> None:
    if md5 is None:
        return
    digest = hashlib.md5(usedforsecurity=False)
    while piece := source.read(COPY_BYTES):
        digest.update(piece)
    source.rewind()
    if digest.hexdigest() != md5.lower():
        raise InvalidFile(
            f"md5: the parts have the MD5 {digest.hexdigest()}; send the parts that differ again.", param="md5"
        )
