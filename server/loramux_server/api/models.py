"""`/v1/models`: the base and its adapters as OpenAI's clients list them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter

from loramux_adapters.models import VersionState
from loramux_adapters.registry.registry import AdapterRecord
from loramux_adapters.service import Library
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A name that requests can be sent to: when it was made (Unix seconds), and the base that an adapter is of."""

    id: str
    created: int
    parent: str | None = None


class Catalogue(Protocol):
    """The names that are served now."""

    def list(self) -> Iterable[ModelEntry]:
        """Return the base and every adapter, by its bare name."""

    def get(self, name: str) -> ModelEntry | None:
        """Return what `name` (the base's, NAME or NAME@DIGEST) is, or None."""

    async def delete(self, name: str, actor: str) -> None:
        """Forget an adapter or one version; raises ModelNotFound, InvalidRequest for the base, AdapterError."""


def models_router(catalogue: Catalogue) -> APIRouter:
    """Return the routes that list and retrieve models; nothing in them tells where anything lies."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        base_first = sorted(catalogue.list(), key=lambda entry: entry.parent is not None)
        return {"object": "list", "data": [_model(entry) for entry in base_first]}

    @router.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        entry = catalogue.get(name)
        if entry is None:
            raise ModelNotFound(name)
        return _model(entry)

    @router.delete("/v1/models/{name:path}")
    async def delete_model(name: str, by: Admin) -> dict[str, Any]:
        await catalogue.delete(name, by.key_id)
        return {"id": name, "object": "model", "deleted": True}

    return router


def _model(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": "loramux",
        "root": entry.parent or entry.id,
        "parent": entry.parent,
    }


class ServedModels:
    """The base, and what the adapters' catalogue has, as models."""

    def __init__(self, base_name: str, library: Library) -> None:
        self._base = ModelEntry(base_name, created=int(time.time()))
        self._library, self._adapters = library, library.catalogue

    def list(self) -> Iterable[ModelEntry]:
        """Return the base and every adapter whose bare name leads somewhere."""
        yield self._base
        for adapter in filter(_serves, self._adapters.adapters()):
            yield ModelEntry(adapter.name, int(adapter.created_at), self._base.id)

    def get(self, name: str) -> ModelEntry | None:
        """Return what `name` (the base's, NAME or NAME@DIGEST) is, or None."""
        if name == self._base.id:
            return self._base
        adapter, version = self._adapters.get(name), self._adapters.version(name)
        if adapter and _serves(adapter):
            return ModelEntry(name, int(adapter.created_at), self._base.id)
        if version and version.state is VersionState.READY:
            return ModelEntry(name, int(version.created_at), self._base.id)
        return None

    async def delete(self, name: str, actor: str) -> None:
        """Forget an adapter or one version; raises ModelNotFound, InvalidRequest for the base, AdapterError."""
        if name == self._base.id:
            raise InvalidRequest("The base can't be deleted.", param="model")
        if adapter := self._adapters.get(name):
            await self._library.remove(adapter.name, actor=actor)
        elif version := self._adapters.version(name):
            await self._library.remove_version(version.id, actor=actor)
        else:
            raise ModelNotFound(name)


def _serves(adapter: AdapterRecord) -> bool:
    """Whether its bare name leads anywhere."""
    return bool(adapter.targets)
