"""What operators look at: what is in the engine, and who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query

from loramux_adapters.models import parse_adapter_name
from loramux_adapters.service import Library
from loramux_server.api.adapters.schemas import Audit, Residency
from loramux_server.api.error_schemas import problems
from loramux_server.api.permissions import Admin


def oversight_router(library: Library) -> APIRouter:
    """Return /admin/residency and /admin/audit."""
    router = APIRouter(prefix="/admin", tags=["oversight"], responses=problems())

    @router.get("/residency")
    async def show_residency(_: Admin) -> Residency:
        """Show which versions are in the engine, how many requests hold each, and which fail to load."""
        return Residency.of(await library.pool.view())

    @router.get("/audit")
    async def show_audit(
        _: Admin,
        adapter: Annotated[str | None, Query(description="Of this adapter only; it may be removed already.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Audit:
        """List changes, the newest first."""
        return Audit.of(await library.audit(None if adapter is None else parse_adapter_name(adapter), limit))

    return router
