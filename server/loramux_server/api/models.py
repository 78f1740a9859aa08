"""`/v1/models`: the base, its adapters and the aliases in OpenAI's format."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import APIRouter

from loramux_adapters.model_aliases import ModelAliases
from loramux_adapters.models import VersionState
from loramux_adapters.registry.model_aliases import ModelAlias
from loramux_adapters.registry.registry import AdapterRecord
from loramux_adapters.service import AdapterService
from loramux_server.api.permissions import Caller
from loramux_server.auth import Principal
from loramux_server.errors import InvalidRequest, ModelNotFound, NotPermitted
from loramux_server.model_access import ModelAccess, is_own_alias


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A name that requests can use as `model`.

    `created` is in Unix seconds, `parent` is an adapter's base, and `target` is the model that an alias stands for.
    """

    id: str
    created: int
    parent: str | None = None
    target: str | None = None


class ModelDirectory(Protocol):
    """The models that are served at present, as far as they exist for a caller."""

    def list(self, caller: Principal) -> Iterable[ModelEntry]:
        """Return the base, every adapter, and every alias of a model that is served."""

    def get(self, name: str, caller: Principal) -> ModelEntry | None:
        """Return the model `name` (the base, NAME, NAME@DIGEST or an alias), or None."""

    async def delete(self, name: str, caller: Principal) -> None:
        """Remove an adapter, one version, or an alias, whose target stays.

        Raises:
            ModelNotFound: no such model.
            InvalidRequest: `name` is the base.
            NotPermitted: the model belongs to another project.
            AdapterError: the version is in use, the settings define the alias, or the registry failed.

        """


def models_router(models: ModelDirectory) -> APIRouter:
    """Return the routes that list, retrieve and delete models; responses contain no paths of the server."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models(by: Caller) -> dict[str, Any]:
        base_first = sorted(models.list(by), key=lambda entry: entry.parent is not None)
        return {"object": "list", "data": [_model(entry) for entry in base_first]}

    @router.get("/v1/models/{name:path}")
    async def retrieve_model(name: str, by: Caller) -> dict[str, Any]:
        entry = models.get(name, by)
        if entry is None:
            raise ModelNotFound(name)
        return _model(entry)

    @router.delete("/v1/models/{name:path}")
    async def delete_model(name: str, by: Caller) -> dict[str, Any]:
        await models.delete(name, by)
        return {"id": name, "object": "model", "deleted": True}

    return router


def _model(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": "loramux",
        "root": entry.target or entry.parent or entry.id,
        "parent": entry.parent,
    }


class ServedModels:
    """The base, the registered adapters and the aliases as models."""

    def __init__(
        self, base_name: str, adapter_service: AdapterService, aliases: ModelAliases, access: ModelAccess
    ) -> None:
        self._base, self._aliases = ModelEntry(base_name, created=int(time.time())), aliases
        self._access = access
        self._adapter_service, self._adapters = adapter_service, adapter_service.resolver

    def list(self, caller: Principal) -> Iterable[ModelEntry]:
        """Return the base, every adapter whose name points at a version, and every alias of a model that is served."""
        return [self._as_seen(entry, caller) for entry in self._all() if self._access.may_use(caller, entry.id)]

    def get(self, name: str, caller: Principal) -> ModelEntry | None:
        """Return the model `name` (the base, NAME, NAME@DIGEST or an alias), or None."""
        found = self._own(name) or self._alias(self._aliases.get(name))
        return self._as_seen(found, caller) if found and self._access.may_use(caller, name) else None

    def _all(self) -> Iterable[ModelEntry]:
        yield self._base
        for adapter in filter(_is_served, self._adapters.adapters()):
            yield ModelEntry(adapter.name, int(adapter.created_at), self._base.id)
        yield from filter(None, map(self._alias, self._aliases.all()))

    def _as_seen(self, entry: ModelEntry, caller: Principal) -> ModelEntry:
        """Return the model without the name of a target that the caller may use by the alias alone."""
        return entry if self._access.may_use(caller, entry.target or entry.id) else replace(entry, target=entry.id)

    def _alias(self, alias: ModelAlias | None) -> ModelEntry | None:
        """Return an alias as a model; None if its target is not served, or if a model itself has its name."""
        target = self._own(alias.target) if alias else None
        if alias is None or target is None or self._adapters.is_served(alias.name):
            return None
        return ModelEntry(alias.name, int(alias.created_at), target.parent, target.id)

    def _own(self, name: str) -> ModelEntry | None:
        """Return the model of this own name: the base, NAME or NAME@DIGEST."""
        if name == self._base.id:
            return self._base
        adapter, version = self._adapters.get(name), self._adapters.version(name)
        if adapter and _is_served(adapter):
            return ModelEntry(name, int(adapter.created_at), self._base.id)
        if version and version.state is VersionState.READY:
            return ModelEntry(name, int(version.created_at), self._base.id)
        return None

    async def delete(self, name: str, caller: Principal) -> None:
        """Remove an adapter, one version, or an alias, whose target stays.

        Raises:
            ModelNotFound: no such model.
            InvalidRequest: `name` is the base.
            NotPermitted: the model belongs to another project.
            AdapterError: the version is in use, the settings define the alias, or the registry failed.

        """
        if not self._access.may_use(caller, name):
            raise ModelNotFound(name)
        if name == self._base.id:
            raise InvalidRequest("The base can't be deleted.", param="model")
        if not self._access.owns(caller, name) and not self._is_own_alias(caller, name):
            raise NotPermitted("This model belongs to another project: an administrator can delete it.", param="model")
        actor = caller.key_id
        if adapter := self._adapters.get(name):
            await self._adapter_service.remove(adapter.name, actor=actor)
        elif version := self._adapters.version(name):
            await self._adapter_service.remove_version(version.id, actor=actor)
        elif alias := self._aliases.get(name):
            await self._aliases.remove(alias.name, actor=actor)
        else:
            raise ModelNotFound(name)

    def _is_own_alias(self, caller: Principal, name: str) -> bool:
        """Whether `name` is an alias of the caller's project, and no model itself."""
        is_alias = self._aliases.get(name) is not None and not self._adapters.is_served(name)
        return is_alias and is_own_alias(caller, name)


def _is_served(adapter: AdapterRecord) -> bool:
    """Whether the adapter's name points at a version."""
    return bool(adapter.targets)
