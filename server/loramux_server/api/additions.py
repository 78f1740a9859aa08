"""`POST /admin/adapters`: a new adapter, or a new version of one."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from loramux_adapters.library import Library
from loramux_adapters.records import parse_adapter_name
from loramux_server.api.authority import Admin
from loramux_server.api.origins import BODY, read_addition
from loramux_server.api.progress import Tell, wants_progress, with_progress
from loramux_server.api.views import PROBLEMS, Version


def additions_router(library: Library, roots: Sequence[Path], urls: Sequence[str]) -> APIRouter:
    """Return the route; adapters may come from the folders in `roots` and the URL prefixes in `urls`."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=PROBLEMS)

    @router.post("", status_code=201, response_model=Version, openapi_extra=BODY)
    async def add_adapter(request: Request, by: Admin) -> Response:
        """Check the files, try them on the engine, and serve them under the name from now on.

        With `Accept: application/x-ndjson` the answer is a line of JSON for each step, and the version (or the error)
        at the end.
        """
        stack = AsyncExitStack()
        given, source, promote = await stack.enter_async_context(read_addition(request, roots, urls))
        name = parse_adapter_name(given)

        async def add(tell: Tell) -> Version:
            async with stack:
                record = await library.add(name, source, actor=by.key_id, tell=tell, promote=promote)
                return Version.of(record, library.pool)

        if wants_progress(request):
            return with_progress(add)
        version = await add(lambda _: None)
        return JSONResponse(version.model_dump(mode="json"), status_code=201)

    return router
