"""`/v1/uploads`: training files that are uploaded in parts."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile

from loramux_adapters.finetuning.jobs.errors import InvalidFile
from loramux_adapters.finetuning.jobs.training_files import MAX_FILE_BYTES, FileRecord
from loramux_adapters.finetuning.jobs.uploads import MAX_PARTS, PartRecord, UploadRecord, Uploads
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.fine_tuning.file_forms import PURPOSE, ExpiresAfter, printable_name, require_fine_tune
from loramux_server.api.fine_tuning.files import CheckFile, serialize_file
from loramux_server.api.permissions import Caller, visible_project
from loramux_server.auth import Principal

_PREFIX = "/v1/uploads"
PARTS_PATTERN = f"{_PREFIX}/*/parts"
"""Matches the paths to which parts are posted."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CreateUpload(_Body):
    """Body of the creation of an upload; `mime_type` is ignored, because the content is checked."""

    bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]
    filename: Annotated[str, Field(min_length=1)]
    mime_type: str | None = None
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteUpload(_Body):
    """Body of the completion of an upload; the file consists of the parts in this order."""

    part_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_PARTS)]
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


def uploads_router(uploads: Uploads, check: CheckFile) -> APIRouter:
    """Return the routes; a completed file is read by `check`, as one that is uploaded at once."""
    router = APIRouter(prefix=_PREFIX, tags=["files"], responses=error_responses(404, 409, 413))

    async def require(upload: str, by: Principal) -> None:
        """Check that the caller's project has an upload."""
        await asyncio.to_thread(uploads.get, upload, time.time(), visible_project(by))

    @router.post("")
    async def create(body: CreateUpload, by: Caller) -> dict[str, Any]:
        """Start an upload, which expires after an hour unless it is completed."""
        require_fine_tune(body.purpose)
        seconds = body.expires_after.seconds if body.expires_after else None
        name = printable_name(body.filename)
        created = await asyncio.to_thread(uploads.create, name, PURPOSE, body.bytes, seconds, time.time(), by.project)
        return _serialize(created)

    @router.post("/{upload}/parts")
    async def add_part(upload: str, request: Request, by: Caller) -> dict[str, Any]:
        """Add a part; parts can be sent in any order, and at the same time."""
        await require(upload, by)
        async with request.form(max_files=1, max_fields=1) as form:
            data = form.get("data")
            if not isinstance(data, UploadFile):
                raise InvalidFile("The form has no part `data`.", param="data")
            return _serialize_part(await asyncio.to_thread(uploads.add_part, upload, data.file, time.time()))

    @router.post("/{upload}/complete")
    async def complete(upload: str, body: CompleteUpload, by: Caller) -> dict[str, Any]:
        """Make a file of the parts; each line is checked."""
        await require(upload, by)
        file = await asyncio.to_thread(uploads.complete, upload, body.part_ids, body.md5, time.time(), check)
        return _serialize(await asyncio.to_thread(uploads.get, upload, time.time()), file)

    @router.post("/{upload}/cancel")
    async def cancel(upload: str, by: Caller) -> dict[str, Any]:
        """Cancel an upload; its parts are removed."""
        await require(upload, by)
        return _serialize(await asyncio.to_thread(uploads.cancel, upload, time.time()))

    return router


def _serialize(record: UploadRecord, file: FileRecord | None = None) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "upload",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "expires_at": int(record.expires_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": record.status,
        "file": serialize_file(file) if file else None,
    }


def _serialize_part(record: PartRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "upload.part",
        "created_at": int(record.created_at),
        "upload_id": record.upload,
    }
