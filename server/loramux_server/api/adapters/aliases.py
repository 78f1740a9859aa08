"""Routes that point an adapter's name at versions, and keep versions loaded."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.models import Digest, VersionId
from loramux_adapters.service import AdapterService
from loramux_server.api.adapters.schemas import Adapter
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.keys import GroupName
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest


class AliasTarget(BaseModel):
    """A version and its weight."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[str, Field(description="NAME@DIGEST or DIGEST.")]
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, description="Relative to the other weights.")] = (
        1.0
    )


class Alias(BaseModel):
    """The versions that the name points at: one, or several for a canary."""

    model_config = ConfigDict(extra="forbid", strict=True)

    targets: Annotated[list[AliasTarget], Field(min_length=1, max_length=16)]


class Pin(BaseModel):
    """Whether the adapter stays loaded."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pinned: bool = True


class Owner(BaseModel):
    """The project that an adapter belongs to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    project: Annotated[GroupName, Field(description="Its keys may use the adapter.")]


def aliases_router(adapter_service: AdapterService) -> APIRouter:
    """Return the routes; include them before those of `/admin/adapters/{name}`, where names may contain slashes."""
    router = APIRouter(prefix="/admin/adapters/{name:path}", tags=["adapters"], responses=error_responses(404, 409))

    @router.put("/alias")
    async def set_alias(name: str, alias: Alias, by: Admin) -> Adapter:
        """Point the name at these versions from the next request on; each user stays on one of them."""
        adapter = adapter_service.adapter_name(name)
        targets: dict[Digest, float] = {}
        for target in alias.targets:
            text = target.version if "@" in target.version else f"{adapter}@{target.version}"
            version = VersionId.parse(adapter_service.resolver.own_name(text))
            if version.name != adapter or version.digest in targets:
                raise InvalidRequest("Each target must be a different version of this adapter.", param="targets")
            targets[version.digest] = target.weight
        return Adapter.of(await adapter_service.set_alias(adapter, targets, actor=by.key_id), adapter_service.pool)

    @router.post("/rollback")
    async def roll_back(name: str, by: Admin) -> Adapter:
        """Point the name at the versions before the last change."""
        return Adapter.of(
            await adapter_service.roll_back(adapter_service.adapter_name(name), actor=by.key_id), adapter_service.pool
        )

    @router.put("/pin")
    async def pin(name: str, pin: Pin, by: Admin) -> Adapter:
        """Keep the versions that the name points at loaded, or allow their eviction again."""
        adapter = await adapter_service.pin(adapter_service.adapter_name(name), pinned=pin.pinned, actor=by.key_id)
        return Adapter.of(adapter, adapter_service.pool)

    @router.put("/project")
    async def set_project(name: str, owner: Owner, by: Admin) -> Adapter:
        """Give the adapter to a project, whose keys may use it from the next request on."""
        adapter = adapter_service.adapter_name(name)
        changed = await adapter_service.set_project(adapter, owner.project, actor=by.key_id)
        return Adapter.of(changed, adapter_service.pool)

    @router.post("/prefetch", responses=error_responses(503))
    async def prefetch(name: str, _: Admin) -> Adapter:
        """Load NAME or NAME@DIGEST into the engine now; responds when it is loaded."""
        versions = await adapter_service.prefetch(name)
        return Adapter.of(adapter_service.get(versions[0].name), adapter_service.pool)

    return router
