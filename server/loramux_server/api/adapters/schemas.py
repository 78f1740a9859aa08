"""Response schemas of adapters."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from loramux_adapters.models import EffectCheck, Tier, VersionState
from loramux_adapters.registry.registry import AdapterRecord, AuditRecord, VersionRecord
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.residency.ports import PoolView

_MANIFEST_FIELDS = {"rank", "alpha", "target_modules", "parameters", "weights_bytes", "warnings"}


class Version(BaseModel):
    """An immutable set of adapter weights."""

    id: Annotated[str, Field(description="NAME@DIGEST, which requests can use as `model`.")]
    state: Annotated[VersionState, Field(description="Only `ready` versions are served.")]
    reason: Annotated[str | None, Field(description="Why it is rejected or quarantined.")]
    created_at: Annotated[float, Field(description="Unix seconds.")]
    weight: Annotated[
        float, Field(description="Its share of the adapter name's requests, relative to the other versions'.")
    ]
    uses: Annotated[
        int,
        Field(description="Ended requests since it was added, whatever their outcome, as `/admin/usage` counts them."),
    ]
    resident: Annotated[bool, Field(description="Whether it is loaded in the engine's host memory.")]
    source: Annotated[dict[str, str], Field(description="Source of its files.")]
    warnings: Annotated[
        Sequence[str], Field(description="Unusual properties of its files that are no reason to reject them.")
    ]
    rank: int
    alpha: float
    target_modules: Sequence[str]
    parameters: int
    weights_bytes: int

    @classmethod
    def of(cls, record: VersionRecord, pool: AdapterPool) -> "Version":
        """Return the schema of a registered version."""
        manifest = record.manifest.model_dump(include=_MANIFEST_FIELDS)
        return cls(
            id=str(record.id),
            state=record.state,
            reason=record.reason,
            created_at=record.created_at,
            weight=record.weight,
            uses=record.uses,
            resident=pool.is_resident(record.id),
            source=dict(record.source),
            **manifest,
        )


class VersionDetails(Version):
    """A version with its effect check."""

    proof: Annotated[
        EffectCheck | None,
        Field(description="Effect check on the engine when the version was added; null if there was none."),
    ]

    @classmethod
    def from_record(
        cls, record: VersionRecord, pool: AdapterPool, effect_check: EffectCheck | None
    ) -> "VersionDetails":
        """Return the schema of a registered version and its effect check."""
        return cls(**Version.of(record, pool).model_dump(), proof=effect_check)


class Adapter(BaseModel):
    """A registered adapter and its versions, oldest first."""

    name: str
    created_at: Annotated[float, Field(description="Unix seconds.")]
    pinned: Annotated[bool, Field(description="Whether the versions that the name points at stay loaded.")]
    project: Annotated[str, Field(description="The project that it belongs to.")]
    versions: Sequence[Version]

    @classmethod
    def of(cls, record: AdapterRecord, pool: AdapterPool) -> "Adapter":
        """Return the schema of a registered adapter."""
        versions = [Version.of(version, pool) for version in record.versions]
        about = {"created_at": record.created_at, "pinned": record.pinned, "project": record.project}
        return cls(name=record.name, versions=versions, **about)


class Adapters(BaseModel):
    """All registered adapters, by name."""

    data: Sequence[Adapter]


class AuditEntry(BaseModel):
    """One change: actor, time, and the values before and after."""

    at: Annotated[float, Field(description="Unix seconds.")]
    actor: Annotated[
        str,
        Field(
            description="A key's id, `anonymous` on a server without keys, `configuration`, `server` or `experiment`."
        ),
    ]
    action: str
    adapter: str
    before: Any
    after: Any


class Audit(BaseModel):
    """Changes, newest first."""

    data: Sequence[AuditEntry]

    @classmethod
    def of(cls, records: Sequence[AuditRecord]) -> "Audit":
        """Return the schema of audit records."""
        fields = AuditEntry.model_fields
        return cls(data=[AuditEntry(**{name: getattr(record, name) for name in fields}) for record in records])


class ResidentVersion(BaseModel):
    """A version in the engine's host memory."""

    version: str
    tier: Annotated[Tier, Field(description="`slot` if the next batch can use it without a copy.")]
    leases: Annotated[int, Field(description="Runs in flight: a request has one for each of its prompts.")]
    loading: bool
    pinned: bool


class LoadFailure(BaseModel):
    """A version that failed to load, and is backed off until the next attempt."""

    version: str
    retry_in: Annotated[
        float, Field(description="Seconds until the next attempt; 0 if the next request loads it again.")
    ]


class Residency(BaseModel):
    """The versions in the engine."""

    host: Annotated[int, Field(description="Versions that fit into host memory.")]
    slots: Annotated[int, Field(description="Adapters per batch.")]
    waiting: Annotated[int, Field(description="Requests waiting for host memory.")]
    resident: Sequence[ResidentVersion]
    broken: Sequence[LoadFailure]

    @classmethod
    def of(cls, view: PoolView) -> "Residency":
        """Return the schema of the pool's state."""
        resident = [
            ResidentVersion(
                version=str(one.version),
                tier=Tier.SLOT if one.in_slot else Tier.HOST,
                leases=one.leases,
                loading=one.loading,
                pinned=one.pinned,
            )
            for one in view.residents
        ]
        broken = [LoadFailure(version=str(version), retry_in=seconds) for version, seconds in view.backed_off.items()]
        return cls(host=view.capacity, slots=view.slots, waiting=view.waiting, resident=resident, broken=broken)
