"""`/admin/adapters`: add, list, show and remove adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.library import Library
from loramux_adapters.records import parse_adapter_name
from loramux_adapters.registry import AdapterRecord, VersionRecord
from loramux_adapters.sources.folder import FolderSource
from loramux_server.api.authority import Admin


class FolderOrigin(BaseModel):
    """A folder on the server's machine, inside one of its allowed roots."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["folder"]
    path: Annotated[Path, Field(description="As PEFT saves it: adapter_config.json and adapter_model.safetensors.")]


class NewAdapter(BaseModel):
    """An adapter to accept, or a new version of one that exists."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: FolderOrigin


class Version(BaseModel):
    """One immutable set of weights; `weight` is its share of the bare name's requests."""

    id: str
    state: str
    created_at: float
    weight: float
    resident: Annotated[bool, Field(description="Whether it is in the engine's host memory now.")]
    rank: int
    alpha: float
    target_modules: Sequence[str]
    parameters: int
    weights_bytes: int


class Adapter(BaseModel):
    """A registered adapter and its versions, the oldest first."""

    name: str
    created_at: float
    versions: Sequence[Version]


class Adapters(BaseModel):
    """All registered adapters, by name."""

    data: Sequence[Adapter]


def adapters_router(library: Library, allowed_roots: Sequence[Path]) -> APIRouter:
    """Return the routes that change what is served."""
    router = APIRouter(prefix="/admin/adapters", tags=["adapters"])

    @router.post("", status_code=201)
    async def add_adapter(new: NewAdapter, _: Admin) -> Version:
        """Check the files and, if they are an adapter of the base, serve them under the name from now on."""
        source = FolderSource(new.source.path, allowed_roots)
        return _version(await library.add(parse_adapter_name(new.name), source, actor="local"))

    @router.get("")
    async def list_adapters(_: Admin) -> Adapters:
        """List what is registered."""
        return Adapters(data=[_adapter(record) for record in library.catalogue.adapters()])

    @router.get("/{name:path}")
    async def show_adapter(name: str, _: Admin) -> Adapter:
        """Show one adapter."""
        return _adapter(library.show(parse_adapter_name(name)))

    @router.delete("/{name:path}")
    async def remove_adapter(name: str, _: Admin) -> Adapter:
        """Forget an adapter: new requests find no such model, those in flight finish."""
        return _adapter(await library.remove(parse_adapter_name(name), actor="local"))

    def _version(record: VersionRecord) -> Version:
        facts = record.manifest.model_dump(include={"rank", "alpha", "target_modules", "parameters", "weights_bytes"})
        return Version(
            id=str(record.id),
            state=record.state,
            created_at=record.created_at,
            weight=record.weight,
            resident=library.pool.is_resident(record.id),
            **facts,
        )

    def _adapter(record: AdapterRecord) -> Adapter:
        versions = [_version(version) for version in record.versions]
        return Adapter(name=record.name, created_at=record.created_at, versions=versions)

    return router
