"""`/admin/adapters`: list, show and remove adapters and their versions."""

from fastapi import APIRouter

from loramux_adapters.errors import VersionNotFound
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from loramux_adapters.service import AdapterService
from loramux_server.api.adapters.schemas import Adapter, Adapters, VersionDetails
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest


def adapters_router(adapter_service: AdapterService) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=error_responses())

    @router.get("")
    async def list_adapters(_: Admin) -> Adapters:
        """List all adapters."""
        return Adapters(
            data=[Adapter.of(record, adapter_service.pool) for record in adapter_service.resolver.adapters()]
        )

    @router.get("/{name:path}/versions/{digest}", responses=error_responses(404))
    async def show_version(name: str, digest: str, _: Admin) -> VersionDetails:
        """Show a version and its effect check: its answers to the probes, next to the base's."""
        requested = VersionId(adapter_service.adapter_name(name), parse_digest(digest))
        for version in adapter_service.get(requested.name).versions:
            if version.id == requested:
                return VersionDetails.from_record(
                    version, adapter_service.pool, await adapter_service.effect_check(requested)
                )
        raise VersionNotFound(f"{requested.name} has no version {requested.digest}.")

    @router.get("/{name:path}", responses=error_responses(404))
    async def show_adapter(name: str, _: Admin) -> Adapter:
        """Show one adapter."""
        return Adapter.of(adapter_service.get(adapter_service.adapter_name(name)), adapter_service.pool)

    @router.delete("/{name:path}/versions/{digest}", responses=error_responses(404, 409))
    async def remove_version(name: str, digest: str, by: Admin) -> Adapter:
        """Remove a version that the name does not point at; requests in flight finish."""
        version = VersionId(adapter_service.adapter_name(name), parse_digest(digest))
        return Adapter.of(await adapter_service.remove_version(version, actor=by.key_id), adapter_service.pool)

    @router.delete("/{name:path}", responses=error_responses(404))
    async def remove_adapter(name: str, by: Admin) -> Adapter:
        """Remove an adapter: new requests get a 404, requests in flight finish."""
        adapter = _not_an_alias(name, adapter_service)
        return Adapter.of(await adapter_service.remove(adapter, actor=by.key_id), adapter_service.pool)

    return router


def _not_an_alias(name: str, adapter_service: AdapterService) -> AdapterName:
    """Return an adapter's name; a client that removes an alias hardly means the adapter with all its versions."""
    adapter = adapter_service.adapter_name(name)
    if adapter != name:
        raise InvalidRequest(
            f"{name} is an alias of {adapter}: remove the alias (`loramux alias remove {name}`), or the adapter by its "
            "own name.",
            param="name",
        )
    return adapter
