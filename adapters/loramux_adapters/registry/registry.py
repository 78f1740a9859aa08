"""What is registered: adapters, their versions, and what each bare name leads to; the one place that changes it.

Every change is one transaction, and leaves an audit row in it: who, when, from what, to what.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, and_, bindparam, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import (
    AdapterExists,
    AdapterNotFound,
    InvalidAlias,
    NothingToRollBack,
    StoreError,
    VersionInUse,
    VersionNotReady,
)
from loramux_adapters.models import (
    DIGEST_LENGTH,
    AdapterName,
    BaseSpec,
    Digest,
    Manifest,
    Proof,
    VersionId,
    VersionState,
)
from loramux_adapters.registry.tables import adapters, aliases, audit, versions
from loramux_adapters.registry.transaction import Change, Targets, Transaction, insert_new, is_version, shares


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version. `weight` is its share of the bare name's requests, 0 if the name does not lead to it.

    `reason` says why it is rejected or quarantined; `uses` counts the requests that it served.
    """

    id: VersionId
    manifest: Manifest
    source: Mapping[str, str]
    state: VersionState
    created_at: float
    weight: float
    reason: str | None
    uses: int

    @property
    def is_proving(self) -> bool:
        """Whether its proof is still to come."""
        return self.state is VersionState.PROVING


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """A registered adapter and its versions, the oldest first; times are Unix seconds."""

    name: AdapterName
    created_at: float
    pinned: bool
    versions: Sequence[VersionRecord]

    @property
    def targets(self) -> dict[Digest, float]:
        """What the bare name leads to."""
        return {version.id.digest: version.weight for version in self.versions if version.weight}


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change: who made it, when, and what was before and after; `before` and `after` are JSON."""

    at: float
    actor: str
    action: str
    adapter: AdapterName
    before: Any
    after: Any


class Registry:
    """The registered adapters in the database `engine`, which must hold the tables and enforce foreign keys.

    Every method raises StoreError if the database fails.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_version(
        self, name: AdapterName, manifest: Manifest, source: Mapping[str, str], by: Change, *, promote: bool = True
    ) -> VersionId:
        """Register a version, and the adapter if it is new.

        It has yet to prove itself before it serves, and before the bare name leads to it if it is to `promote`.

        The same content again is the same version: one that serves goes on serving, one that was rejected or
        quarantined gets another chance. Raises AdapterExists if other content has the same short digest.
        """
        version = manifest.version_of(name)
        with self._changing(name, by, create=True) as change:
            facts = {"manifest": manifest.model_dump_json(), "source": dict(source), "created_at": by.now}
            key = {"name": name, "digest": version.digest}
            insert_new(change.connection, versions, key | facts | {"state": VersionState.PROVING, "promote": False})
            row = change.version(version)
            if Manifest.model_validate_json(row["manifest"]).digest != manifest.digest:
                # The whole digest is compared because its short form can be made to collide.
                raise AdapterExists(f"Another version of {name} has the same short digest, {version.digest}.")
            if row["state"] is not VersionState.READY:
                # Added again before it is proven, it is promoted if anyone wants it to be.
                wanted = promote or (row["state"] is VersionState.PROVING and row["promote"])
                change.move(version, VersionState.PROVING, promote=wanted)
            change.note("add", None, {"version": str(version), "source": dict(source)})
        return version

    def conclude(
        self,
        version: VersionId,
        state: VersionState,
        by: Change,
        *,
        reason: str | None = None,
        proof: Proof | None = None,
    ) -> None:
        """Enter what came of a version; if it was added to be promoted and is ready, the bare name leads to it.

        One that leaves service loses its share of the bare name to the others.

        Raises VersionNotFound, and VersionNotReady where no step leads from its state to this one.
        """
        with self._changing(version.name, by) as change:
            row = change.version(version)
            before = row["state"]
            if not before.can_become(state):
                raise VersionNotReady(f"The version {version} is {before} and can't become {state}.")
            shown = None if proof is None else proof.model_dump_json()
            change.move(version, state, reason, **({} if proof is None else {"proof": shown}))
            change.connection.execute(delete(aliases).where(is_version(aliases, version)))
            change.note(state.value, {"state": before}, {"version": str(version), "state": state, "reason": reason})
            if state is VersionState.READY and row["promote"]:
                change.lead_to({version.digest: 1.0}, "promote")

    def set_alias(self, name: AdapterName, targets: Targets, by: Change, action: str = "promote") -> None:
        """Let the bare name lead to `targets` from now on; raises InvalidAlias, VersionNotFound, VersionNotReady."""
        _check_weights(targets)
        with self._changing(name, by) as change:
            for digest in targets:
                change.require_ready(VersionId(name, digest))
            change.lead_to(targets, action)

    def roll_back(self, name: AdapterName, by: Change) -> None:
        """Let the bare name lead to what it led to before, as far back as all of that can still serve.

        Raises AdapterNotFound, NothingToRollBack.
        """
        with self._changing(name, by) as change:
            before = change.targets()
            while (targets := change.recall()) is not None:
                if shares(targets) != shares(before) and change.all_ready(targets):
                    change.point(targets)
                    change.note("rollback", before, targets)
                    return
            raise NothingToRollBack(f"{name} led to nothing else before that could serve now.")

    def set_pinned(self, name: AdapterName, by: Change, *, pinned: bool) -> None:
        """Mark the adapter as one that stays in the engine, or not; raises AdapterNotFound."""
        with self._changing(name, by) as change:
            before = change.connection.execute(select(adapters.c.pinned).where(adapters.c.name == name)).scalar_one()
            change.connection.execute(update(adapters).where(adapters.c.name == name).values(pinned=pinned))
            change.note("pin" if pinned else "unpin", before, pinned)

    def remove(self, name: AdapterName, by: Change) -> None:
        """Forget the adapter and all its versions; raises AdapterNotFound."""
        with self._changing(name, by) as change:
            change.note("remove", change.targets(), None)
            change.connection.execute(delete(adapters).where(adapters.c.name == name))

    def remove_version(self, version: VersionId, by: Change) -> None:
        """Forget one version, and with the last one the adapter.

        Raises VersionNotFound, and VersionInUse if the bare name leads to it.
        """
        with self._changing(version.name, by) as change:
            change.version(version)
            if version.digest in change.targets():
                raise VersionInUse(f"{version.name} leads to {version}: promote another version first.")
            change.connection.execute(delete(versions).where(is_version(versions, version)))
            others = select(versions.c.digest).where(versions.c.name == version.name)
            change.connection.execute(delete(adapters).where(adapters.c.name == version.name, ~others.exists()))
            change.note("remove_version", {"version": str(version)}, None)

    def get(self, name: AdapterName) -> AdapterRecord:
        """Return one adapter; raises AdapterNotFound."""
        records = self._read(_SELECT.where(adapters.c.name == name))
        if not records:
            raise _not_found(name)
        return records[0]

    def snapshot(self) -> list[AdapterRecord]:
        """Return all adapters as they are at one moment, by name."""
        return self._read(_SELECT)

    def proof(self, version: VersionId) -> Proof | None:
        """Return what the version showed when it was last proven."""
        with _translated(), self._engine.connect() as connection:
            found = connection.execute(select(versions.c.proof).where(is_version(versions, version))).scalar()
        return None if found is None else Proof.model_validate_json(found)

    def audit(self, name: AdapterName | None, limit: int) -> list[AuditRecord]:
        """Return the newest changes first, of one adapter or of all."""
        statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
        with _translated(), self._engine.connect() as connection:
            rows = connection.execute(statement if name is None else statement.where(audit.c.adapter == name))
            return [AuditRecord(*row[1:]) for row in rows]

    def is_known(self, sha256: str) -> bool:
        """Whether any version has this content."""
        short = select(versions.c.manifest).where(versions.c.digest == sha256[:DIGEST_LENGTH])
        with _translated(), self._engine.connect() as connection:
            found = connection.execute(short).scalars().all()
        return any(Manifest.model_validate_json(manifest).digest == sha256 for manifest in found)

    def add_uses(self, uses: Mapping[VersionId, int]) -> None:
        """Add to what the versions served; those that are gone are passed over."""
        if not uses:
            return
        statement = (
            update(versions)
            .where(versions.c.name == bindparam("of_name"), versions.c.digest == bindparam("of_digest"))
            .values(uses=versions.c.uses + bindparam("more"))
        )
        rows = [{"of_name": v.name, "of_digest": v.digest, "more": count} for v, count in uses.items()]
        with _translated(), self._engine.begin() as connection:
            connection.execute(statement, rows)

    @contextmanager
    def _changing(self, name: AdapterName, by: Change, *, create: bool = False) -> Iterator[Transaction]:
        """One transaction on one adapter; raises AdapterNotFound unless it is there or to be made."""
        with _translated(), self._engine.begin() as connection:
            # The first statement writes: SQLite takes its lock at once, and can't find the database changed later.
            if create:
                insert_new(connection, adapters, {"name": name, "created_at": by.now})
            touched = update(adapters).where(adapters.c.name == name).values(name=name)
            if not connection.execute(touched).rowcount:
                raise _not_found(name)
            yield Transaction(connection, name, by)

    def _read(self, statement: Select[Any]) -> list[AdapterRecord]:
        with _translated(), self._engine.connect() as connection:
            rows = connection.execute(statement).mappings().all()
        shared: dict[BaseSpec, BaseSpec] = {}
        return [_adapter(list(group), shared) for _, group in groupby(rows, key=lambda row: row["name"])]


# One statement, so that what it returns was true at one moment.
_SELECT = (
    select(
        adapters.c.created_at.label("adapter_created_at"),
        adapters.c.pinned,
        *(column for column in versions.c if column is not versions.c.proof),
        aliases.c.weight,
    )
    .select_from(adapters)
    .join(versions)
    .outerjoin(aliases, and_(aliases.c.name == versions.c.name, aliases.c.digest == versions.c.digest))
    .order_by(versions.c.name, versions.c.created_at, versions.c.digest)
)


def _adapter(rows: Sequence[RowMapping], shared: dict[BaseSpec, BaseSpec]) -> AdapterRecord:
    first = rows[0]
    found = tuple(_version(row, shared) for row in rows)
    return AdapterRecord(first["name"], first["adapter_created_at"], first["pinned"], found)


def _version(row: RowMapping, shared: dict[BaseSpec, BaseSpec]) -> VersionRecord:
    manifest = Manifest.model_validate_json(row["manifest"])
    # Ten thousand versions have one base: it is kept once.
    manifest = manifest.model_copy(update={"base": shared.setdefault(manifest.base, manifest.base)})
    return VersionRecord(
        id=VersionId(row["name"], Digest(row["digest"])),
        manifest=manifest,
        source=row["source"],
        state=row["state"],
        created_at=row["created_at"],
        weight=row["weight"] or 0.0,
        reason=row["reason"],
        uses=row["uses"],
    )


def _check_weights(targets: Targets) -> None:
    # Their sum is checked too: shares are parts of it.
    if not targets or not all(weight > 0 for weight in targets.values()) or not isfinite(sum(targets.values())):
        raise InvalidAlias("A name leads to one version or several, each with a weight that is finite and above 0.")


@contextmanager
def _translated() -> Iterator[None]:
    """Keep the database's words, which may name hosts and files, from clients; the log has them as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The adapter registry can't be read or written.") from error


def _not_found(name: AdapterName) -> AdapterNotFound:
    return AdapterNotFound(f"No adapter is registered as {name}.")
