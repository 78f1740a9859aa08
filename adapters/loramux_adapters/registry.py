"""What is registered: adapters, their versions, and what each bare name points to. The tables are this module's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Connection,
    Double,
    Engine,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    MetaData,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    and_,
    delete,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import AdapterExists, AdapterNotFound, StoreError
from loramux_adapters.records import DIGEST_LENGTH, MAX_NAME_LENGTH, AdapterName, Digest, Manifest, VersionId


class VersionState(StrEnum):
    """Whether a version may serve."""

    READY = "ready"


metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_adapters = Table(
    "adapters",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("created_at", Double, nullable=False),
)

_versions = Table(
    "versions",
    metadata,
    Column("name", ForeignKey(_adapters.c.name, ondelete="CASCADE"), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    # JSON as text: pydantic reads ten thousand at once, in half the time that a JSON column and pydantic need in turn.
    Column("manifest", Text, nullable=False),
    Column("source", JSON, nullable=False),
    # Stored as text without a constraint: a new state then needs no migration.
    Column("state", Enum(VersionState, native_enum=False, length=32, values_callable=list), nullable=False),
    Column("created_at", Double, nullable=False),
)

# A row for each version that the bare name leads to, and its share of the requests relative to the others'.
_aliases = Table(
    "aliases",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    Column("weight", Double, nullable=False),
    CheckConstraint("weight > 0", name="weight_positive"),
    ForeignKeyConstraint(["name", "digest"], [_versions.c.name, _versions.c.digest], ondelete="CASCADE"),
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version. `weight` is its share of the bare name's requests, 0 if the name does not lead to it."""

    id: VersionId
    manifest: Manifest
    source: Mapping[str, str]
    state: VersionState
    created_at: float
    weight: float


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """A registered adapter and its versions, the oldest first; times are Unix seconds."""

    name: AdapterName
    created_at: float
    versions: Sequence[VersionRecord]


class Registry:
    """The registered adapters in the database `engine`, which must hold the tables and enforce foreign keys.

    Every method raises StoreError if the database fails.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_version(self, name: AdapterName, manifest: Manifest, source: Mapping[str, str], now: float) -> VersionId:
        """Register a version, and the adapter if it is new, and point the bare name to it, in one transaction.

        The same content again is the same version. Raises AdapterExists if other content has the same short digest.
        """
        version = manifest.version_of(name)
        key = {"name": name, "digest": version.digest}
        with _translated(), self._engine.begin() as connection:
            # The first statement writes: SQLite takes its lock at once, and can't find the database changed later.
            self._insert_new(connection, _adapters, {"name": name, "created_at": now})
            connection.execute(select(_adapters.c.name).where(_adapters.c.name == name).with_for_update())
            facts = {"manifest": manifest.model_dump_json(), "source": dict(source)}
            self._insert_new(connection, _versions, key | facts | {"state": VersionState.READY, "created_at": now})
            _check_same_content(connection, version, manifest)
            connection.execute(delete(_aliases).where(_aliases.c.name == name))
            connection.execute(_aliases.insert().values(**key, weight=1.0))
        return version

    def remove(self, name: AdapterName) -> None:
        """Forget the adapter and all its versions; their files stay in the store. Raises AdapterNotFound."""
        with _translated(), self._engine.begin() as connection:
            if not connection.execute(delete(_adapters).where(_adapters.c.name == name)).rowcount:
                raise _not_found(name)

    def get(self, name: AdapterName) -> AdapterRecord:
        """Return one adapter; raises AdapterNotFound."""
        records = self._read(_SELECT.where(_adapters.c.name == name))
        if not records:
            raise _not_found(name)
        return records[0]

    def snapshot(self) -> list[AdapterRecord]:
        """Return all adapters as they are at one moment, by name."""
        return self._read(_SELECT)

    def _read(self, statement: Select[Any]) -> list[AdapterRecord]:
        with _translated(), self._engine.connect() as connection:
            rows = connection.execute(statement).mappings().all()
        return [_adapter(list(group)) for _, group in groupby(rows, key=lambda row: row["name"])]

    def _insert_new(self, connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
        """Insert a row unless its key is there."""
        on_postgresql = self._engine.dialect.name == "postgresql"
        insert: sqlite.Insert | postgresql.Insert = postgresql.insert(table) if on_postgresql else sqlite.insert(table)
        connection.execute(insert.values(**values).on_conflict_do_nothing())


# One statement, so that what it returns was true at one moment.
_SELECT = (
    select(_adapters.c.created_at.label("adapter_created_at"), _versions, _aliases.c.weight)
    .select_from(_adapters)
    .join(_versions)
    .outerjoin(_aliases, and_(_aliases.c.name == _versions.c.name, _aliases.c.digest == _versions.c.digest))
    .order_by(_versions.c.name, _versions.c.created_at, _versions.c.digest)
)


def _check_same_content(connection: Connection, version: VersionId, manifest: Manifest) -> None:
    """Compare the whole digest: its short form can be made to collide."""
    of_version = (_versions.c.name == version.name) & (_versions.c.digest == version.digest)
    stored = connection.execute(select(_versions.c.manifest).where(of_version)).scalar_one()
    if Manifest.model_validate_json(stored).digest != manifest.digest:
        raise AdapterExists(f"Another version of {version.name} has the same short digest, {version.digest}.")


def _adapter(rows: Sequence[RowMapping]) -> AdapterRecord:
    return AdapterRecord(rows[0]["name"], rows[0]["adapter_created_at"], tuple(_version(row) for row in rows))


def _version(row: RowMapping) -> VersionRecord:
    return VersionRecord(
        id=VersionId(row["name"], Digest(row["digest"])),
        manifest=Manifest.model_validate_json(row["manifest"]),
        source=row["source"],
        state=row["state"],
        created_at=row["created_at"],
        weight=row["weight"] or 0.0,
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Keep the database's words, which may name hosts and files, from clients; the log has them as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The adapter registry can't be read or written.") from error


def _not_found(name: AdapterName) -> AdapterNotFound:
    return AdapterNotFound(f"No adapter is registered as {name}.")
