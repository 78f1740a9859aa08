"""Adapters as the administration's answers show them."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from loramux_adapters.models import Proof, Tier, VersionState
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord, VersionRecord
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.residency.ports import PoolView

_FACTS = {"rank", "alpha", "target_modules", "parameters", "weights_bytes", "warnings"}


class Version(BaseModel):
    """One immutable set of weights."""

    id: Annotated[str, Field(description="NAME@DIGEST, by which requests can ask for exactly this version.")]
    state: Annotated[VersionState, Field(description="Only `ready` versions serve.")]
    reason: Annotated[str | None, Field(description="Why it is rejected or quarantined.")]
    created_at: Annotated[float, Field(description="Unix seconds.")]
    weight: Annotated[float, Field(description="Its share of the bare name's requests, relative to the others'.")]
    uses: Annotated[int, Field(description="Requests that it served, up to about a minute ago.")]
    resident: Annotated[bool, Field(description="Whether it is in the engine's host memory now.")]
    source: Annotated[dict[str, str], Field(description="Where its files came from.")]
    warnings: Annotated[Sequence[str], Field(description="What is odd about its files, and no reason to refuse them.")]
    rank: int
    alpha: float
    target_modules: Sequence[str]
    parameters: int
    weights_bytes: int

    @classmethod
    def of(cls, record: VersionRecord, pool: AdapterPool) -> "Version":
        """Show a registered version."""
        facts = record.manifest.model_dump(include=_FACTS)
        return cls(
            id=str(record.id),
            state=record.state,
            reason=record.reason,
            created_at=record.created_at,
            weight=record.weight,
            uses=record.uses,
            resident=pool.is_resident(record.id),
            source=dict(record.source),
            **facts,
        )


class TriedVersion(Version):
    """A version, and what it showed on the engine when it was added."""

    proof: Annotated[Proof | None, Field(description="None if it was not tried.")]

    @classmethod
    def showing(cls, record: VersionRecord, pool: AdapterPool, proof: Proof | None) -> "TriedVersion":
        """Show a registered version and its proof."""
        return cls(**Version.of(record, pool).model_dump(), proof=proof)


class Adapter(BaseModel):
    """A registered adapter and its versions, the oldest first."""

    name: str
    created_at: Annotated[float, Field(description="Unix seconds.")]
    pinned: Annotated[bool, Field(description="Whether what the bare name leads to stays in the engine.")]
    versions: Sequence[Version]

    @classmethod
    def of(cls, record: AdapterRecord, pool: AdapterPool) -> "Adapter":
        """Show a registered adapter."""
        versions = [Version.of(version, pool) for version in record.versions]
        return cls(name=record.name, created_at=record.created_at, pinned=record.pinned, versions=versions)


class Adapters(BaseModel):
    """All registered adapters, by name."""

    data: Sequence[Adapter]


class Change(BaseModel):
    """One change: who made it, when, from what and to what."""

    at: Annotated[float, Field(description="Unix seconds.")]
    actor: Annotated[str, Field(description="A key's id, `anonymous` on an open server, `configuration` or `server`.")]
    action: str
    adapter: str
    before: Any
    after: Any


class Audit(BaseModel):
    """Changes, the newest first."""

    data: Sequence[Change]

    @classmethod
    def of(cls, records: Sequence[AuditRecord]) -> "Audit":
        """Show audit rows."""
        fields = Change.model_fields
        return cls(data=[Change(**{name: getattr(record, name) for name in fields}) for record in records])


class Resident(BaseModel):
    """A version that holds a place in the engine's host memory."""

    version: str
    tier: Annotated[Tier, Field(description="`slot` if it is where the next batch can use it without a copy.")]
    leases: Annotated[int, Field(description="Requests that run on it now.")]
    loading: bool
    pinned: bool


class Broken(BaseModel):
    """A version that failed to load and is left alone for a while."""

    version: str
    retry_in: Annotated[float, Field(description="Seconds; 0 if the next request tries again.")]


class Residency(BaseModel):
    """What is in the engine now."""

    host: Annotated[int, Field(description="Places in host memory.")]
    slots: Annotated[int, Field(description="Slots: adapters in one batch.")]
    waiting: Annotated[int, Field(description="Requests that wait for a place.")]
    resident: Sequence[Resident]
    broken: Sequence[Broken]

    @classmethod
    def of(cls, view: PoolView) -> "Residency":
        """Show the pool."""
        resident = [
            Resident(
                version=str(one.version),
                tier=Tier.SLOT if one.in_slot else Tier.HOST,
                leases=one.leases,
                loading=one.loading,
                pinned=one.pinned,
            )
            for one in view.residents
        ]
        broken = [Broken(version=str(version), retry_in=seconds) for version, seconds in view.broken.items()]
        return cls(host=view.capacity, slots=view.slots, waiting=view.waiting, resident=resident, broken=broken)
