"""`/admin/adapters`: list, show and remove adapters and their versions."""

from fastapi import APIRouter

from loramux_adapters.errors import VersionNotFound
from loramux_adapters.models import VersionId, parse_adapter_name, parse_digest
from loramux_adapters.service import Library
from loramux_server.api.adapters.schemas import Adapter, Adapters, TriedVersion
from loramux_server.api.error_schemas import problems
from loramux_server.api.permissions import Admin


def adapters_router(library: Library) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=problems())

    @router.get("")
    async def list_adapters(_: Admin) -> Adapters:
        """List what is registered."""
        return Adapters(data=[Adapter.of(record, library.pool) for record in library.catalogue.adapters()])

    @router.get("/{name:path}/versions/{digest}", responses=problems(404))
    async def show_version(name: str, digest: str, _: Admin) -> TriedVersion:
        """Show a version, and what it answered to the probes when it was added, beside the base's answers."""
        wanted = VersionId(parse_adapter_name(name), parse_digest(digest))
        for version in library.show(wanted.name).versions:
            if version.id == wanted:
                return TriedVersion.showing(version, library.pool, await library.proof(wanted))
        raise VersionNotFound(f"{wanted.name} has no version {wanted.digest}.")

    @router.get("/{name:path}", responses=problems(404))
    async def show_adapter(name: str, _: Admin) -> Adapter:
        """Show one adapter."""
        return Adapter.of(library.show(parse_adapter_name(name)), library.pool)

    @router.delete("/{name:path}/versions/{digest}", responses=problems(404, 409))
    async def remove_version(name: str, digest: str, by: Admin) -> Adapter:
        """Forget a version that the bare name does not lead to; requests in flight finish."""
        version = VersionId(parse_adapter_name(name), parse_digest(digest))
        return Adapter.of(await library.remove_version(version, actor=by.key_id), library.pool)

    @router.delete("/{name:path}", responses=problems(404))
    async def remove_adapter(name: str, by: Admin) -> Adapter:
        """Forget an adapter: new requests find no such model, those in flight finish."""
        return Adapter.of(await library.remove(parse_adapter_name(name), actor=by.key_id), library.pool)

    return router
