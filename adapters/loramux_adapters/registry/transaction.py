"""A change to one adapter in the registry: the steps that one transaction is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from loramux_adapters.errors import VersionNotFound, VersionNotReady
from loramux_adapters.models import AdapterName, Digest, VersionId, VersionState
from loramux_adapters.registry.tables import alias_history, aliases, audit, versions

Targets = Mapping[Digest, float]
"""What a bare name leads to: each version's share of the requests, relative to the others'."""


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes something, and when (Unix seconds)."""

    actor: str
    now: float


@dataclass(frozen=True, slots=True)
class Transaction:
    """The steps that changes to one adapter are made of."""

    connection: Connection
    name: AdapterName
    by: Change

    def version(self, version: VersionId) -> RowMapping:
        """The version's state, manifest and wish to be promoted; raises VersionNotFound."""
        query = select(versions.c.state, versions.c.manifest, versions.c.promote).where(is_version(versions, version))
        row = self.connection.execute(query).mappings().one_or_none()
        if row is None:
            raise VersionNotFound(f"{version.name} has no version {version.digest}.")
        return row

    def require_ready(self, version: VersionId) -> None:
        """Raise VersionNotReady unless it may serve."""
        state = self.version(version)["state"]
        if state is not VersionState.READY:
            raise VersionNotReady(f"The version {version} can't serve: it is {state}.")

    def all_ready(self, targets: Targets) -> bool:
        """Whether each of them is there and may serve."""
        ready = select(func.count()).where(
            versions.c.name == self.name, versions.c.digest.in_(targets), versions.c.state == VersionState.READY
        )
        return self.connection.execute(ready).scalar_one() == len(targets)

    def move(self, version: VersionId, state: VersionState, reason: str | None = None, **values: Any) -> None:
        """Enter a state."""
        changed = update(versions).where(is_version(versions, version)).values(state=state, reason=reason, **values)
        self.connection.execute(changed)

    def targets(self) -> dict[Digest, float]:
        """What the bare name leads to."""
        rows = self.connection.execute(select(aliases.c.digest, aliases.c.weight).where(aliases.c.name == self.name))
        return {Digest(row.digest): row.weight for row in rows}

    def lead_to(self, targets: Targets, action: str) -> None:
        """Point the bare name to `targets`, and keep what it led to for a rollback."""
        before = self.targets()
        if before and shares(before) != shares(targets):
            self.remember(before)
        self.point(targets)
        self.note(action, before, dict(targets))

    def point(self, targets: Targets) -> None:
        """Let the bare name lead to `targets` and nothing else."""
        self.connection.execute(delete(aliases).where(aliases.c.name == self.name))
        rows = [{"name": self.name, "digest": digest, "weight": weight} for digest, weight in targets.items()]
        self.connection.execute(aliases.insert(), rows)

    def remember(self, targets: Targets) -> None:
        """Put `targets` on the history."""
        highest = select(func.coalesce(func.max(alias_history.c.position), 0)).where(alias_history.c.name == self.name)
        position = self.connection.execute(highest).scalar_one() + 1
        values = {"name": self.name, "position": position, "targets": dict(targets)}
        self.connection.execute(alias_history.insert().values(values))

    def recall(self) -> dict[Digest, float] | None:
        """Take the newest off the history."""
        mine = alias_history.c.name == self.name
        newest = select(alias_history).where(mine).order_by(alias_history.c.position.desc()).limit(1)
        row = self.connection.execute(newest).one_or_none()
        if row is None:
            return None
        self.connection.execute(delete(alias_history).where(mine, alias_history.c.position == row.position))
        return {Digest(digest): weight for digest, weight in row.targets.items()}

    def note(self, action: str, before: object, after: object) -> None:
        """Leave the audit row."""
        values = {"at": self.by.now, "actor": self.by.actor, "action": action, "adapter": self.name}
        self.connection.execute(audit.insert().values(**values, before=before, after=after))


def shares(targets: Targets) -> dict[Digest, float]:
    """Return what each version gets of all requests."""
    total = sum(targets.values())
    return {digest: weight / total for digest, weight in targets.items()}


def is_version(table: Table, version: VersionId) -> ColumnElement[bool]:
    """The condition that a row is of the version."""
    return (table.c.name == version.name) & (table.c.digest == version.digest)


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row unless its key is there."""
    on_postgresql = connection.dialect.name == "postgresql"
    insert: sqlite.Insert | postgresql.Insert = postgresql.insert(table) if on_postgresql else sqlite.insert(table)
    connection.execute(insert.values(**values).on_conflict_do_nothing())
