"""`/admin/adapters`: list, show and remove adapters and their versions."""

from fastapi import APIRouter

from loramux_adapters.library import Library
from loramux_adapters.records import VersionId, parse_adapter_name, parse_digest
from loramux_server.api.authority import Admin
from loramux_server.api.views import PROBLEMS, Adapter, Adapters, Proofs


def adapters_router(library: Library) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=PROBLEMS)

    @router.get("")
    async def list_adapters(_: Admin) -> Adapters:
        """List what is registered."""
        return Adapters(data=[Adapter.of(record, library.pool) for record in library.catalogue.adapters()])

    @router.get("/{name:path}/proofs")
    async def show_proofs(name: str, _: Admin) -> Proofs:
        """Show what each version answered to the probes when it was added, beside the base's answers."""
        record = library.show(parse_adapter_name(name))
        return Proofs(data={str(version.id): await library.proof(version.id) for version in record.versions})

    @router.get("/{name:path}")
    async def show_adapter(name: str, _: Admin) -> Adapter:
        """Show one adapter."""
        return Adapter.of(library.show(parse_adapter_name(name)), library.pool)

    @router.delete("/{name:path}/versions/{digest}")
    async def remove_version(name: str, digest: str, by: Admin) -> Adapter:
        """Forget a version that the bare name does not lead to; requests in flight finish."""
        version = VersionId(parse_adapter_name(name), parse_digest(digest))
        return Adapter.of(await library.remove_version(version, actor=by.key_id), library.pool)

    @router.delete("/{name:path}")
    async def remove_adapter(name: str, by: Admin) -> Adapter:
        """Forget an adapter: new requests find no such model, those in flight finish."""
        return Adapter.of(await library.remove(parse_adapter_name(name), actor=by.key_id), library.pool)

    return router
