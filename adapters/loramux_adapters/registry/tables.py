"""The adapters' tables: what is registered, what each bare name leads to and led to, and who changed what."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

from loramux_adapters.models import DIGEST_LENGTH, MAX_NAME_LENGTH, VersionState

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(column_0_label)s",
        "pk": "pk_%(table_name)s",
    }
)

adapters = Table(
    "adapters",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("pinned", Boolean, nullable=False, server_default=false()),
)

versions = Table(
    "versions",
    metadata,
    Column("name", ForeignKey(adapters.c.name, ondelete="CASCADE"), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    # JSON as text: pydantic reads ten thousand at once, in half the time that a JSON column and pydantic need in turn.
    Column("manifest", Text, nullable=False),
    Column("source", JSON, nullable=False),
    # Stored as text without a constraint: a new state then needs no migration.
    Column("state", Enum(VersionState, native_enum=False, length=32, values_callable=list), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("reason", Text),
    Column("proof", Text),
    # Whether the bare name is to lead to it once it is proven; the proof may have to wait for another start.
    Column("promote", Boolean, nullable=False, server_default=true()),
    Column("uses", BigInteger, nullable=False, server_default=text("0")),
)

# A row for each version that the bare name leads to, and its share of the requests relative to the others'.
aliases = Table(
    "aliases",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    Column("weight", Double, nullable=False),
    CheckConstraint("weight > 0", name="weight_positive"),
    ForeignKeyConstraint(["name", "digest"], [versions.c.name, versions.c.digest], ondelete="CASCADE"),
)

# What the bare name led to before, the newest with the highest position: {digest: weight}.
alias_history = Table(
    "alias_history",
    metadata,
    Column("name", ForeignKey(adapters.c.name, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("targets", JSON, nullable=False),
)

# Outlives the adapters that it speaks of, so it refers to none.
audit = Table(
    "audit",
    metadata,
    # SQLite counts up by itself only in a column of exactly this type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("adapter", String(MAX_NAME_LENGTH), nullable=False, index=True),
    Column("before", JSON),
    Column("after", JSON),
)
