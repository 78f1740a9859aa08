"""A transaction on one adapter in the registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import StoreError, VersionNotFound, VersionNotReady
from loramux_adapters.models import AdapterName, Digest, VersionId, VersionState
from loramux_adapters.registry.tables import alias_history, aliases, audit, versions

AliasTargets = Mapping[Digest, float]
"""The targets of a bare name: each version's weight, its share of the requests relative to the others'."""


@dataclass(frozen=True, slots=True)
class ChangedBy:
    """The actor of a change and its time in Unix seconds, for the audit log."""

    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class Transaction:
    """The statements on one adapter that make up a change."""

    connection: Connection
    name: AdapterName
    by: ChangedBy

    def version_row(self, version: VersionId) -> RowMapping:
        """Return the version's columns `state`, `manifest` and `promote`.

        Raises:
            VersionNotFound: the adapter has no such version.
        """
        query = select(versions.c.state, versions.c.manifest, versions.c.promote).where(
            matches_version(versions, version)
        )
        row = self.connection.execute(query).mappings().one_or_none()
        if row is None:
            raise VersionNotFound(f"{version.name} has no version {version.digest}.")
        return row

    def require_ready(self, version: VersionId) -> None:
        """Check that the version is READY.

        Raises:
            VersionNotFound, VersionNotReady: it does not exist, or has another state.
        """
        state = self.version_row(version)["state"]
        if state is not VersionState.READY:
            raise VersionNotReady(f"The version {version} can't be served: it is {state}.")

    def all_ready(self, targets: AliasTargets) -> bool:
        """Whether all targets exist and are READY."""
        ready = select(func.count()).where(
            versions.c.name == self.name, versions.c.digest.in_(targets), versions.c.state == VersionState.READY
        )
        return self.connection.execute(ready).scalar_one() == len(targets)

    def set_state(self, version: VersionId, state: VersionState, reason: str | None = None, **values: Any) -> None:
        """Update the version's state, reason and other columns."""
        changed = (
            update(versions).where(matches_version(versions, version)).values(state=state, reason=reason, **values)
        )
        self.connection.execute(changed)

    def targets(self) -> dict[Digest, float]:
        """Return the current targets of the bare name."""
        rows = self.connection.execute(select(aliases.c.digest, aliases.c.weight).where(aliases.c.name == self.name))
        return {Digest(row.digest): row.weight for row in rows}

    def set_targets(self, targets: AliasTargets, action: str) -> None:
        """Point the bare name at `targets`, and push the previous targets to the history for a rollback."""
        before = self.targets()
        if before and traffic_shares(before) != traffic_shares(targets):
            self.push_history(before)
        self.replace_aliases(targets)
        self.write_audit(action, before, dict(targets))

    def replace_aliases(self, targets: AliasTargets) -> None:
        """Replace the bare name's rows in `aliases`."""
        self.connection.execute(delete(aliases).where(aliases.c.name == self.name))
        rows = [{"name": self.name, "digest": digest, "weight": weight} for digest, weight in targets.items()]
        self.connection.execute(aliases.insert(), rows)

    def push_history(self, targets: AliasTargets) -> None:
        """Append `targets` to the history."""
        highest = select(func.coalesce(func.max(alias_history.c.position), 0)).where(alias_history.c.name == self.name)
        position = self.connection.execute(highest).scalar_one() + 1
        values = {"name": self.name, "position": position, "targets": dict(targets)}
        self.connection.execute(alias_history.insert().values(values))

    def pop_history(self) -> dict[Digest, float] | None:
        """Remove the latest targets from the history and return them, None if it is empty."""
        is_own = alias_history.c.name == self.name
        newest = select(alias_history).where(is_own).order_by(alias_history.c.position.desc()).limit(1)
        row = self.connection.execute(newest).one_or_none()
        if row is None:
            return None
        self.connection.execute(delete(alias_history).where(is_own, alias_history.c.position == row.position))
        return {Digest(digest): weight for digest, weight in row.targets.items()}

    def write_audit(self, action: str, before: object, after: object) -> None:
        """Insert the change's row into the audit log."""
        values = {"at": self.by.at, "actor": self.by.actor, "action": action, "adapter": self.name}
        self.connection.execute(audit.insert().values(**values, before=before, after=after))


def traffic_shares(targets: AliasTargets) -> dict[Digest, float]:
    """Normalize the weights to a sum of 1."""
    total = sum(targets.values())
    return {digest: weight / total for digest, weight in targets.items()}


def matches_version(table: Table, version: VersionId) -> ColumnElement[bool]:
    """Return the condition that a row belongs to the version."""
    return (table.c.name == version.name) & (table.c.digest == version.digest)


def insert_if_missing(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row unless its key exists."""
    on_postgresql = connection.dialect.name == "postgresql"
    insert: sqlite.Insert | postgresql.Insert = postgresql.insert(table) if on_postgresql else sqlite.insert(table)
    connection.execute(insert.values(**values).on_conflict_do_nothing())


def lock_name(connection: Connection, name: AdapterName) -> None:
    """Lock a name until the transaction ends, so that it does not become an adapter and an alias at the same time.

    PostgreSQL can't lock rows that are missing. SQLite has one lock for writers: the next statement must write.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


@contextmanager
def store_errors() -> Iterator[None]:
    """Replace the database's messages, which may contain hosts and files; the log has them as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The adapter registry can't be read or written.") from error
