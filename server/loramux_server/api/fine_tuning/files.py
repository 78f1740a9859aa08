"""`/v1/files`: training files, and the result files of jobs."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse

from loramux_adapters.finetuning.jobs.errors import FileInUse, InvalidFile
from loramux_adapters.finetuning.jobs.training_files import FileRecord, TrainingFiles
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin

CheckFile = Callable[[Path], Mapping[str, Any]]
"""Reads a training file and returns its report, or raises InvalidDataset."""

_PURPOSE: Final = "fine-tune"
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]")
_MAX_NAME_LENGTH = 255


def files_router(files: TrainingFiles, check: CheckFile, is_in_use: Callable[[str], bool]) -> APIRouter:
    """Return the routes; `is_in_use` returns whether an unfinished job needs a file."""
    router = APIRouter(prefix="/v1/files", tags=["files"], responses=error_responses(404, 409, 413))

    @router.post("")
    async def upload(request: Request, _: Admin) -> dict[str, Any]:
        """Upload a training file; each line is checked."""
        async with request.form(max_files=1, max_fields=8) as form:
            part, filename = _training_file(form)
            record = await asyncio.to_thread(files.add, part.file, filename, _PURPOSE, time.time(), check)
            return _serialize(record)

    @router.get("")
    async def list_files(
        _: Admin,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """List files, one page at a time."""
        page = await asyncio.to_thread(
            files.list, purpose=purpose, after=after, limit=limit, newest_first=order == "desc"
        )
        return list_page([_serialize(record) for record in page.items], has_more=page.has_more)

    @router.get("/{file}")
    async def retrieve(file: str, _: Admin) -> dict[str, Any]:
        """Return one file's metadata."""
        return _serialize(await asyncio.to_thread(files.get, file))

    @router.get("/{file}/content")
    async def content(file: str, _: Admin) -> FileResponse:
        """Return the content of a file."""
        path = await asyncio.to_thread(files.path, file)
        return FileResponse(path, media_type="application/octet-stream")

    @router.get("/{file}/report")
    async def report(file: str, _: Admin) -> dict[str, Any]:
        """Return the statistics of a training file (not in OpenAI's API)."""
        record = await asyncio.to_thread(files.get, file)
        return {"object": "file.report", "file": record.id, "report": record.report}

    @router.delete("/{file}")
    async def delete(file: str, _: Admin) -> dict[str, Any]:
        """Delete a file that no unfinished job needs."""
        if await asyncio.to_thread(is_in_use, file):
            raise FileInUse("An unfinished job needs the file: cancel the job first.")
        await asyncio.to_thread(files.delete, file)
        return {"id": file, "object": "file", "deleted": True}

    return router


def list_page(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page in OpenAI's format."""
    cursors = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, "has_more": has_more, **cursors}


def _training_file(form: FormData) -> tuple[UploadFile, str]:
    """Return the form's file and its name.

    Raises:
        InvalidFile: the form has no file, another purpose, another file type, or unknown fields.

    """
    if form.get("purpose") != _PURPOSE:
        raise InvalidFile("The purpose must be `fine-tune`; others are not supported.", param="purpose")
    part = form.get("file")
    if not isinstance(part, UploadFile):
        raise InvalidFile("The form has no part `file`.")
    filename = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", part.filename or "")[:_MAX_NAME_LENGTH]
    if not filename.lower().endswith(".jsonl"):
        raise InvalidFile("The file's name must end in .jsonl: one conversation per line, as JSON.")
    unknown = sorted(set(form) - {"purpose", "file"})
    if unknown:
        raise InvalidFile(f"Unknown field {unknown[0][:40]}: only `file` and `purpose` are supported.")
    return part, filename


def _serialize(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
