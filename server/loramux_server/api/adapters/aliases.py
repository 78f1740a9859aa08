"""What an adapter's bare name leads to, and what of it stays in the engine."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.models import Digest, VersionId, parse_adapter_name
from loramux_adapters.service import Library
from loramux_server.api.adapters.schemas import Adapter
from loramux_server.api.error_schemas import problems
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest


class Target(BaseModel):
    """A version and its share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[str, Field(description="NAME@DIGEST, or DIGEST alone.")]
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, description="Relative to the others'.")] = 1.0


class Alias(BaseModel):
    """The versions that the bare name leads to: one, or several for a canary."""

    model_config = ConfigDict(extra="forbid", strict=True)

    targets: Annotated[list[Target], Field(min_length=1, max_length=16)]


class Pin(BaseModel):
    """Whether the adapter is to stay in the engine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pinned: bool = True


def aliases_router(library: Library) -> APIRouter:
    """Return the routes; they must come before those of `/admin/adapters/{name}`, whose names may hold slashes."""
    router = APIRouter(prefix="/admin/adapters/{name:path}", tags=["adapters"], responses=problems(404, 409))

    @router.put("/alias")
    async def set_alias(name: str, alias: Alias, by: Admin) -> Adapter:
        """Let the bare name lead to these versions from the next request on; a user stays with one of them."""
        adapter = parse_adapter_name(name)
        targets: dict[Digest, float] = {}
        for target in alias.targets:
            text = target.version if "@" in target.version else f"{adapter}@{target.version}"
            version = VersionId.parse(text)
            if version.name != adapter or version.digest in targets:
                raise InvalidRequest("Each target is another version of this adapter.", param="targets")
            targets[version.digest] = target.weight
        return Adapter.of(await library.set_alias(adapter, targets, actor=by.key_id), library.pool)

    @router.post("/rollback")
    async def roll_back(name: str, by: Admin) -> Adapter:
        """Let the bare name lead to what it led to before the last change."""
        return Adapter.of(await library.rollback(parse_adapter_name(name), actor=by.key_id), library.pool)

    @router.put("/pin")
    async def pin(name: str, pin: Pin, by: Admin) -> Adapter:
        """Keep what the bare name leads to in the engine, or let it go when others need the place."""
        adapter = await library.pin(parse_adapter_name(name), pinned=pin.pinned, actor=by.key_id)
        return Adapter.of(adapter, library.pool)

    @router.post("/prefetch", responses=problems(503))
    async def prefetch(name: str, _: Admin) -> Adapter:
        """Bring NAME or NAME@DIGEST into the engine now, and answer when it is there."""
        versions = await library.prefetch(name)
        return Adapter.of(library.show(versions[0].name), library.pool)

    return router
