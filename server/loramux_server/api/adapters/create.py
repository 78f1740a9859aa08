"""`POST /admin/adapters`: a new adapter, or a new version of one."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from loramux_adapters.intake.sources import Tell
from loramux_adapters.service import Library, silent
from loramux_server.api.adapters.progress import wants_progress, with_progress
from loramux_server.api.adapters.schemas import TriedVersion
from loramux_server.api.adapters.sources import BODY, read_addition
from loramux_server.api.error_schemas import problems
from loramux_server.api.permissions import Admin


def additions_router(library: Library, roots: Sequence[Path], urls: Sequence[str]) -> APIRouter:
    """Return the route; adapters may come from the folders in `roots` and the URL prefixes in `urls`."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"])

    @router.post(
        "",
        status_code=201,
        response_model=TriedVersion,
        openapi_extra=BODY,
        responses=problems(409, 413, 502),
    )
    async def add_adapter(request: Request, by: Admin) -> Response:
        """Check the files, try them on the engine, and serve them under the name from now on.

        With `Accept: application/x-ndjson` the answer is a line of JSON for each step, and the version (or the error)
        at the end.
        """
        new = await read_addition(request, roots, urls)

        async def add(tell: Tell) -> TriedVersion:
            try:
                record = await library.add(new.name, new.source, actor=by.key_id, tell=tell, promote=new.promote)
                return TriedVersion.showing(record, library.pool, await library.proof(record.id))
            finally:
                await new.close()

        if wants_progress(request):
            return with_progress(add)
        version = await add(silent)
        return JSONResponse(version.model_dump(mode="json"), status_code=201)

    return router
