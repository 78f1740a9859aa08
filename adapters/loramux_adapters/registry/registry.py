"""The registry: adapters, their versions, and the targets of each bare name, in the database.

Every change is one transaction, which includes its row in the audit log: actor, time, before and after.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, and_, bindparam, delete, select, update

from loramux_adapters.errors import (
    AdapterExists,
    AdapterNotFound,
    InvalidAlias,
    NothingToRollBack,
    VersionInUse,
    VersionNotReady,
)
from loramux_adapters.models import (
    DEFAULT_PROJECT,
    DIGEST_LENGTH,
    AdapterName,
    BaseSpec,
    Digest,
    EffectCheck,
    Manifest,
    VersionId,
    VersionState,
)
from loramux_adapters.registry.tables import adapters, aliases, audit, model_aliases, versions
from loramux_adapters.registry.transaction import (
    AliasTargets,
    ChangedBy,
    Transaction,
    insert_if_missing,
    lock_name,
    matches_version,
    store_errors,
    traffic_shares,
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version.

    `weight` is its share of the bare name's requests relative to the other targets', 0 if it is not a target; `reason`
    says why it was rejected or quarantined; `uses` is the number of requests that it served.
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
    def is_checking(self) -> bool:
        """Whether its effect has not been checked yet."""
        return self.state is VersionState.CHECKING


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """A registered adapter with its versions, oldest first; times are Unix seconds."""

    name: AdapterName
    created_at: float
    pinned: bool
    versions: Sequence[VersionRecord]
    project: str = DEFAULT_PROJECT
    """Its owner."""

    @property
    def targets(self) -> dict[Digest, float]:
        """The targets of the bare name, with their weights."""
        return {version.id.digest: version.weight for version in self.versions if version.weight}


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A row of the audit log; `at` is in Unix seconds, `before` and `after` are JSON values."""

    at: float
    actor: str
    action: str
    adapter: AdapterName
    before: Any
    after: Any


class Registry:
    """The adapters in the database `engine`, which must have the tables and enforce foreign keys.

    Every method raises StoreError if the database fails.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_version(
        self,
        name: AdapterName,
        manifest: Manifest,
        source: Mapping[str, str],
        by: ChangedBy,
        *,
        promote: bool = True,
        project: str = DEFAULT_PROJECT,
    ) -> VersionId:
        """Register a version in the state CHECKING, and the adapter, as one of `project`, if it is new.

        With `promote`, the bare name will point at it once it becomes READY. The same content is the same version: a
        READY one keeps its state, a rejected or quarantined one returns to CHECKING.

        Raises:
            AdapterExists: a version with other content has the same short digest, or the name is a model alias.
        """
        version = manifest.version_id(name)
        with self._transaction(name, by, create_in=project) as change:
            _check_no_alias(change)
            values = {"manifest": manifest.model_dump_json(), "source": dict(source), "created_at": by.at}
            key = {"name": name, "digest": version.digest}
            insert_if_missing(
                change.connection, versions, key | values | {"state": VersionState.CHECKING, "promote": False}
            )
            known = change.version_row(version)
            if Manifest.model_validate_json(known["manifest"]).digest != manifest.digest:
                # The full digest is compared because collisions of the short one can be constructed.
                raise AdapterExists(f"Another version of {name} has the same short digest, {version.digest}.")
            if known["state"] is not VersionState.READY:
                # Of several additions before the check, one with `promote` is enough.
                promote = promote or (known["state"] is VersionState.CHECKING and known["promote"])
                change.set_state(version, VersionState.CHECKING, promote=promote)
            change.write_audit("add", None, {"version": str(version), "source": dict(source)})
        return version

    def set_state(
        self,
        version: VersionId,
        state: VersionState,
        by: ChangedBy,
        *,
        reason: str | None = None,
        effect_check: EffectCheck | None = None,
    ) -> None:
        """Change a version's state, and promote it if it becomes READY and was added with `promote`.

        A version that leaves service is removed from the bare name's targets.

        Raises:
            AdapterNotFound, VersionNotFound: there is no such version.
            VersionNotReady: there is no transition from its state to `state`.
        """
        with self._transaction(version.name, by) as change:
            row = change.version_row(version)
            before = row["state"]
            if not before.can_become(state):
                raise VersionNotReady(f"The version {version} is {before} and can't become {state}.")
            values = {} if effect_check is None else {"proof": effect_check.model_dump_json()}
            change.set_state(version, state, reason, **values)
            change.connection.execute(delete(aliases).where(matches_version(aliases, version)))
            change.write_audit(
                state.value, {"state": before}, {"version": str(version), "state": state, "reason": reason}
            )
            if state is VersionState.READY and row["promote"]:
                change.set_targets({version.digest: 1.0}, "promote")

    def set_alias(self, name: AdapterName, targets: AliasTargets, by: ChangedBy, action: str = "promote") -> None:
        """Point the bare name at `targets`.

        Raises:
            InvalidAlias: there is no target, or a weight is not finite and positive.
            AdapterNotFound, VersionNotFound, VersionNotReady: a target does not exist, or is not READY.
        """
        _check_weights(targets)
        with self._transaction(name, by) as change:
            for digest in targets:
                change.require_ready(VersionId(name, digest))
            change.set_targets(targets, action)

    def roll_back(self, name: AdapterName, by: ChangedBy) -> None:
        """Point the bare name at its latest previous targets that are all READY and differ from the current ones.

        Raises:
            AdapterNotFound: no adapter has this name.
            NothingToRollBack: there are no such targets.
        """
        with self._transaction(name, by) as change:
            before = change.targets()
            while (targets := change.pop_history()) is not None:
                if traffic_shares(targets) != traffic_shares(before) and change.all_ready(targets):
                    change.replace_aliases(targets)
                    change.write_audit("rollback", before, targets)
                    return
            raise NothingToRollBack(f"{name} has no previous targets that can still be served.")

    def set_pinned(self, name: AdapterName, by: ChangedBy, *, pinned: bool) -> None:
        """Mark the adapter as pinned in the engine, or not.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        with self._transaction(name, by) as change:
            before = change.connection.execute(select(adapters.c.pinned).where(adapters.c.name == name)).scalar_one()
            change.connection.execute(update(adapters).where(adapters.c.name == name).values(pinned=pinned))
            change.write_audit("pin" if pinned else "unpin", before, pinned)

    def set_project(self, name: AdapterName, project: str, by: ChangedBy) -> None:
        """Give the adapter to a project.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        with self._transaction(name, by) as change:
            before = change.connection.execute(select(adapters.c.project).where(adapters.c.name == name)).scalar_one()
            change.connection.execute(update(adapters).where(adapters.c.name == name).values(project=project))
            change.write_audit("project", before, project)

    def remove(self, name: AdapterName, by: ChangedBy) -> None:
        """Remove the adapter and all its versions.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        with self._transaction(name, by) as change:
            change.write_audit("remove", change.targets(), None)
            change.connection.execute(delete(adapters).where(adapters.c.name == name))

    def remove_version(self, version: VersionId, by: ChangedBy) -> None:
        """Remove one version, and the adapter with its last version.

        Raises:
            AdapterNotFound, VersionNotFound: there is no such version.
            VersionInUse: the bare name points at it.
        """
        with self._transaction(version.name, by) as change:
            change.version_row(version)
            if version.digest in change.targets():
                raise VersionInUse(f"{version.name} points at {version}: promote another version first.")
            change.connection.execute(delete(versions).where(matches_version(versions, version)))
            others = select(versions.c.digest).where(versions.c.name == version.name)
            change.connection.execute(delete(adapters).where(adapters.c.name == version.name, ~others.exists()))
            change.write_audit("remove_version", {"version": str(version)}, None)

    def write_audit(self, name: AdapterName, by: ChangedBy, action: str, before: object, after: object) -> None:
        """Add a row to the audit log for a change that is stored elsewhere.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        with self._transaction(name, by) as change:
            change.write_audit(action, before, after)

    def get(self, name: AdapterName) -> AdapterRecord:
        """Return one adapter.

        Raises:
            AdapterNotFound: no adapter has this name.
        """
        records = self._read(_SELECT.where(adapters.c.name == name))
        if not records:
            raise _not_found(name)
        return records[0]

    def snapshot(self) -> list[AdapterRecord]:
        """Return a consistent snapshot of all adapters, sorted by name."""
        return self._read(_SELECT)

    def effect_check(self, version: VersionId) -> EffectCheck | None:
        """Return the result of the version's last effect check, None if there is none."""
        with store_errors(), self._engine.connect() as connection:
            found = connection.execute(select(versions.c.proof).where(matches_version(versions, version))).scalar()
        return None if found is None else EffectCheck.model_validate_json(found)

    def audit(self, name: AdapterName | None, limit: int) -> list[AuditRecord]:
        """Return the latest `limit` changes of one adapter or of all, newest first."""
        statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
        with store_errors(), self._engine.connect() as connection:
            rows = connection.execute(statement if name is None else statement.where(audit.c.adapter == name))
            return [AuditRecord(*row[1:]) for row in rows]

    def has_content(self, sha256: str) -> bool:
        """Whether any version has the content of this full SHA-256."""
        short = select(versions.c.manifest).where(versions.c.digest == sha256[:DIGEST_LENGTH])
        with store_errors(), self._engine.connect() as connection:
            found = connection.execute(short).scalars().all()
        return any(Manifest.model_validate_json(manifest).digest == sha256 for manifest in found)

    def add_use_counts(self, uses: Mapping[VersionId, int]) -> None:
        """Add to the versions' use counts; removed versions are ignored."""
        if not uses:
            return
        statement = (
            update(versions)
            .where(versions.c.name == bindparam("of_name"), versions.c.digest == bindparam("of_digest"))
            .values(uses=versions.c.uses + bindparam("added_uses"))
        )
        rows = [{"of_name": v.name, "of_digest": v.digest, "added_uses": count} for v, count in uses.items()]
        with store_errors(), self._engine.begin() as connection:
            connection.execute(statement, rows)

    @contextmanager
    def _transaction(self, name: AdapterName, by: ChangedBy, *, create_in: str | None = None) -> Iterator[Transaction]:
        """Open a transaction on one adapter, which is created in this project if it is missing.

        Raises AdapterNotFound if it does not exist, and is not to be created.
        """
        with store_errors(), self._engine.begin() as connection:
            # The first statement writes, so that SQLite takes its write lock before anything is read.
            if create_in is not None:
                lock_name(connection, name)
                insert_if_missing(connection, adapters, {"name": name, "created_at": by.at, "project": create_in})
            touched = update(adapters).where(adapters.c.name == name).values(name=name)
            if not connection.execute(touched).rowcount:
                raise _not_found(name)
            yield Transaction(connection, name, by)

    def _read(self, statement: Select[Any]) -> list[AdapterRecord]:
        with store_errors(), self._engine.connect() as connection:
            rows = connection.execute(statement).mappings().all()
        shared: dict[BaseSpec, BaseSpec] = {}
        return [_adapter(list(group), shared) for _, group in groupby(rows, key=lambda row: row["name"])]


# One statement, so that its result is consistent.
_SELECT = (
    select(
        adapters.c.created_at.label("adapter_created_at"),
        adapters.c.pinned,
        adapters.c.project,
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
    return AdapterRecord(first["name"], first["adapter_created_at"], first["pinned"], found, first["project"])


def _version(row: RowMapping, shared: dict[BaseSpec, BaseSpec]) -> VersionRecord:
    manifest = Manifest.model_validate_json(row["manifest"])
    # Thousands of versions share one base: it is kept in memory once.
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


def _check_no_alias(change: Transaction) -> None:
    query = select(model_aliases.c.target).where(model_aliases.c.name == change.name)
    target = change.connection.execute(query).scalar_one_or_none()
    if target is not None:
        raise AdapterExists(alias_exists(change.name, target))


def alias_exists(name: str, target: str) -> str:
    """Say why no adapter can have this name, and what helps."""
    return f"{name} is an alias of {target}: choose another name, or remove the alias (`loramux alias remove {name}`)."


def _check_weights(targets: AliasTargets) -> None:
    # The sum is checked too, because shares are fractions of it.
    if not targets or not all(weight > 0 for weight in targets.values()) or not isfinite(sum(targets.values())):
        raise InvalidAlias("A bare name needs at least one target version, each with a finite weight above 0.")


def _not_found(name: AdapterName) -> AdapterNotFound:
    return AdapterNotFound(f"No adapter is registered as {name}.")
