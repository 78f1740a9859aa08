"""`POST /admin/adapters`: add an adapter, or a new version of one."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.service import AdapterService, ignore_progress
from loramux_server.api.adapters.progress import wants_progress, with_progress
from loramux_server.api.adapters.schemas import VersionDetails
from loramux_server.api.adapters.sources import REQUEST_BODY_SCHEMA, read_add_request
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin


def create_router(adapter_service: AdapterService, roots: Sequence[Path], urls: Sequence[str]) -> APIRouter:
    """Return the route; adapters may be added from the folders in `roots` and the URL prefixes in `urls`."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"])

    @router.post(
        "",
        status_code=201,
        response_model=VersionDetails,
        openapi_extra=REQUEST_BODY_SCHEMA,
        responses=error_responses(409, 413, 502),
    )
    async def add_adapter(request: Request, by: Admin) -> Response:
        """Validate the files, test them on the engine, and serve them under the name.

        With `Accept: application/x-ndjson` the response is one line of JSON per step, and the version (or the error) at
        the end.
        """
        new = await read_add_request(request, roots, urls)

        async def add(report_progress: ReportProgress) -> VersionDetails:
            try:
                record = await adapter_service.add(
                    new.name, new.source, actor=by.key_id, report_progress=report_progress, promote=new.promote
                )
                return VersionDetails.from_record(
                    record, adapter_service.pool, await adapter_service.effect_check(record.id)
                )
            finally:
                await new.close()

        if wants_progress(request):
            return with_progress(add)
        version = await add(ignore_progress)
        return JSONResponse(version.model_dump(mode="json"), status_code=201)

    return router
