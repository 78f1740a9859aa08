"""`/admin/aliases`: other names of the base, of adapters and of versions."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.errors import AliasNotFound
from loramux_adapters.model_aliases import ModelAliases
from loramux_adapters.models import parse_adapter_name
from loramux_adapters.registry.model_aliases import ModelAlias
from loramux_adapters.registry.tables import MAX_MODEL_LENGTH
from loramux_adapters.resolver import AdapterResolver
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin

Kind = Literal["base", "adapter", "version"]


class NewAlias(BaseModel):
    """What an alias stands for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    target: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_MODEL_LENGTH,
            description="The base, an adapter (whatever its name points at), or NAME@DIGEST, as in `/v1/models`.",
        ),
    ]


class Alias(BaseModel):
    """Another name of a model."""

    name: str
    target: Annotated[str, Field(description="The model that it stands for.")]
    serves: Annotated[
        Kind | None, Field(description="What the target is; null if this server does not have it: requests get a 404.")
    ]
    shadowed: Annotated[
        bool, Field(description="Whether a model has this name of its own, which is what requests for it get.")
    ]
    source: Annotated[Literal["settings", "api"], Field(description="Where it is defined.")]
    created_at: Annotated[float, Field(description="Unix seconds; of those in the settings, the server's start.")]

    @classmethod
    def of(cls, alias: ModelAlias, resolver: AdapterResolver) -> "Alias":
        """Return the schema of an alias."""
        return cls(
            name=alias.name,
            target=alias.target,
            serves=kind_of(alias.target, resolver),
            shadowed=resolver.is_served(alias.name),
            source="settings" if alias.actor is None else "api",
            created_at=alias.created_at,
        )


class Aliases(BaseModel):
    """All aliases, by name."""

    data: Sequence[Alias]


def kind_of(model: str, resolver: AdapterResolver) -> Kind | None:
    """Return what a model is by its own name, None if it is not served."""
    if not resolver.is_served(model):
        return None
    if resolver.get(model) is not None:
        return "adapter"
    return "version" if resolver.version(model) is not None else "base"


def model_aliases_router(aliases: ModelAliases, resolver: AdapterResolver) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/admin/aliases", tags=["aliases"], responses=error_responses())

    @router.get("")
    async def list_aliases(_: Admin) -> Aliases:
        """List all aliases."""
        return Aliases(data=[Alias.of(alias, resolver) for alias in aliases.all()])

    @router.get("/{name:path}", responses=error_responses(404))
    async def show_alias(name: str, _: Admin) -> Alias:
        """Show one alias."""
        found = aliases.get(parse_adapter_name(name))
        if found is None:
            raise AliasNotFound(f"There is no alias {name}.")
        return Alias.of(found, resolver)

    @router.put("/{name:path}", responses=error_responses(404, 409))
    async def set_alias(name: str, new: NewAlias, by: Admin) -> Alias:
        """Make the name stand for a model from the next request on, whatever it stood for before."""
        return Alias.of(await aliases.set(parse_adapter_name(name), new.target, actor=by.key_id), resolver)

    @router.delete("/{name:path}", responses=error_responses(404, 409))
    async def remove_alias(name: str, by: Admin) -> Alias:
        """Remove an alias; the model that it stands for stays."""
        return Alias.of(await aliases.remove(parse_adapter_name(name), actor=by.key_id), resolver)

    return router
