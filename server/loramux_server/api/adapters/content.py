"""`GET /admin/adapters/{name}/versions/{digest}/content`: the files of a version, as PEFT reads them."""

import re
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import StreamingResponse

from loramux_adapters.models import VersionId, parse_digest
from loramux_adapters.service import AdapterService
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin
from loramux_server.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=(\d{1,18})-")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def content_router(adapter_service: AdapterService) -> APIRouter:
    """Return the route; include it before those of `/admin/adapters/{name}`, where names may contain slashes."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=error_responses(404))

    @router.get(
        "/{name:path}/versions/{digest}/content",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-tar": {}}}},
    )
    async def download_version(
        name: str,
        digest: str,
        _: Admin,
        range_: Annotated[
            str | None, Header(alias="range", description="`bytes=N-` goes on with an interrupted download.")
        ] = None,
    ) -> StreamingResponse:
        """Download a version as a tar archive of its PEFT files, which are verified first.

        Each of its files is as it was accepted, so the digest can be checked: that of the output of `sha256sum` for
        them, sorted by name. The archive has the same bytes at any time.
        """
        version = VersionId(adapter_service.adapter_name(name), parse_digest(digest))
        archive, sha256 = await adapter_service.open_archive(version)
        start, size = _start(range_), archive.size
        if start >= size:
            archive.close()
            raise RangeNotSatisfiable(size)
        headers = {
            "content-length": str(size - start),
            "etag": f'"{sha256}"',
            "accept-ranges": "bytes",
            "content-disposition": f'attachment; filename="{_UNSAFE.sub("-", str(version))}.tar"',
        }
        if start:
            headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
        status = 206 if start else 200
        return StreamingResponse(archive.read(start), status, headers, media_type="application/x-tar")

    return router


def _start(range_: str | None) -> int:
    """Return the first byte that is wanted; other ranges than `bytes=N-` are ignored, as HTTP allows."""
    found = _RANGE.fullmatch(range_ or "")
    return int(found[1]) if found else 0
