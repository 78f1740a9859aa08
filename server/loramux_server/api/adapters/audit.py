"""`/admin/residency` and `/admin/audit`: the adapters in the engine, and the log of changes."""

from typing import Annotated

from fastapi import APIRouter, Query

from loramux_adapters.models import parse_adapter_name
from loramux_adapters.service import AdapterService
from loramux_server.api.adapters.schemas import Audit, Residency
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin


def audit_router(adapter_service: AdapterService) -> APIRouter:
    """Return /admin/residency and /admin/audit."""
    router = APIRouter(prefix="/admin", tags=["oversight"], responses=error_responses())

    @router.get("/residency")
    async def show_residency(_: Admin) -> Residency:
        """Show which versions are loaded, how many requests use each, and which fail to load."""
        return Residency.of(await adapter_service.pool.view())

    @router.get("/audit")
    async def show_audit(
        _: Admin,
        adapter: Annotated[
            str | None, Query(description="Only changes of this adapter, which may have been removed.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Audit:
        """List changes, newest first."""
        return Audit.of(await adapter_service.audit(None if adapter is None else parse_adapter_name(adapter), limit))

    return router
