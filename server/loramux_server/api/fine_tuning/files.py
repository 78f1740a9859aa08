"""`/v1/files`: training files, and the result files of jobs."""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse, Response

from loramux_adapters.finetuning.jobs.errors import InvalidFile
from loramux_adapters.finetuning.jobs.training_files import RESULTS, FileRecord, TrainingFiles
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.fine_tuning.file_forms import PURPOSE, expiry_seconds, printable_name, require_fine_tune
from loramux_server.api.permissions import Caller, visible_project

CheckFile = Callable[[Path, str], Mapping[str, Any]]
"""Reads a training file, whose name is given for errors, and returns its report, or raises InvalidDataset."""

Encoding = Literal["plain", "base64"]
_FIELDS = re.compile(r"file|purpose|expires_after\[(anchor|seconds)\]")
_MAX_ENCODED_BYTES = 16 * 1024 * 1024
"""Of a file that is sent in Base64: result files are smaller."""


def files_router(
    files: TrainingFiles,
    check: CheckFile,
    result_encoding: Encoding = "plain",
) -> APIRouter:
    """Return the routes; result files are sent in `result_encoding` unless a request names another."""
    router = APIRouter(prefix="/v1/files", tags=["files"], responses=error_responses(404, 409, 413))

    @router.post("")
    async def upload(request: Request, by: Caller) -> dict[str, Any]:
        """Upload a training file; each line is checked."""
        async with request.form(max_files=1, max_fields=8) as form:
            part, filename, seconds = _training_file(form)
            now = time.time()
            expires_at = None if seconds is None else now + seconds
            record = await asyncio.to_thread(
                files.add, part.file, filename, PURPOSE, now, check, expires_at=expires_at, project=by.project
            )
            return serialize_file(record)

    @router.get("")
    async def list_files(
        by: Caller,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """List files, one page at a time."""
        page = await asyncio.to_thread(
            files.list,
            purpose=purpose,
            after=after,
            limit=limit,
            newest_first=order == "desc",
            project=visible_project(by),
        )
        return list_page([serialize_file(record) for record in page.items], has_more=page.has_more)

    @router.get("/{file}")
    async def retrieve(file: str, by: Caller) -> dict[str, Any]:
        """Return one file's metadata."""
        return serialize_file(await asyncio.to_thread(files.get, file, visible_project(by)))

    @router.get("/{file}/content")
    async def content(file: str, by: Caller, encoding: Encoding | None = None) -> Response:
        """Return the content of a file; a result file in Base64, as OpenAI sends it, if asked or set so."""
        record = await asyncio.to_thread(files.get, file, visible_project(by))
        path = await asyncio.to_thread(files.path, file)
        default = result_encoding if record.purpose == RESULTS else "plain"
        return await _content(path, encoding or default)

    @router.get("/{file}/report")
    async def report(file: str, by: Caller) -> dict[str, Any]:
        """Return the statistics of a training file (not in OpenAI's API)."""
        record = await asyncio.to_thread(files.get, file, visible_project(by))
        return {"object": "file.report", "file": record.id, "report": record.report}

    @router.delete("/{file}")
    async def delete(file: str, by: Caller) -> dict[str, Any]:
        """Delete a file that no unfinished job needs."""
        await asyncio.to_thread(files.delete, file, visible_project(by))
        return {"id": file, "object": "file", "deleted": True}

    return router


def list_page(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page in OpenAI's format."""
    cursors = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, "has_more": has_more, **cursors}


async def _content(path: Path, encoding: str) -> Response:
    """Return a response with the content of a file.

    Raises:
        InvalidFile: it is too large to be sent in Base64.

    """
    if encoding == "plain":
        return FileResponse(path, media_type="application/octet-stream")
    if (await asyncio.to_thread(path.stat)).st_size > _MAX_ENCODED_BYTES:
        raise InvalidFile(f"A file of more than {_MAX_ENCODED_BYTES} bytes is not sent in Base64.", param="encoding")
    return Response(base64.b64encode(await asyncio.to_thread(path.read_bytes)), media_type="text/plain")


def _training_file(form: FormData) -> tuple[UploadFile, str, int | None]:
    """Return the form's file, its name, and the seconds after which it expires.

    Raises:
        InvalidFile: the form has no file, another purpose, or unknown fields.

    """
    require_fine_tune(form.get("purpose"))
    part = form.get("file")
    if not isinstance(part, UploadFile):
        raise InvalidFile("The form has no part `file`.")
    unknown = sorted(key for key in form if not _FIELDS.fullmatch(key))
    if unknown:
        raise InvalidFile(
            f"Unknown field {unknown[0][:40]}: expected `file`, `purpose` and, if need be, `expires_after`."
        )
    return part, printable_name(part.filename), expiry_seconds(form)


def serialize_file(record: FileRecord) -> dict[str, Any]:
    """Serialize a file in OpenAI's format."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None if record.expires_at is None else int(record.expires_at),
    }
