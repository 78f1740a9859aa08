"""The tables of the registry: adapters, versions, aliases, alias history, model aliases and audit log."""

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

from loramux_adapters.models import DEFAULT_PROJECT, DIGEST_LENGTH, MAX_NAME_LENGTH, MAX_PROJECT_LENGTH, VersionState

MAX_MODEL_LENGTH = 160
"""The longest target of a model alias: NAME@DIGEST, or the name of a base."""

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
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),  # its owner
)

versions = Table(
    "versions",
    metadata,
    Column("name", ForeignKey(adapters.c.name, ondelete="CASCADE"), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    # JSON as text: pydantic parses it in half the time of a JSON column that pydantic validates afterwards.
    Column("manifest", Text, nullable=False),
    Column("source", JSON, nullable=False),
    # Text without a constraint, so that a new state needs no migration.
    Column("state", Enum(VersionState, native_enum=False, length=32, values_callable=list), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("reason", Text),
    Column("proof", Text),
    # Whether it is promoted when its effect check passes, which may only happen after a restart.
    Column("promote", Boolean, nullable=False, server_default=true()),
    Column("uses", BigInteger, nullable=False, server_default=text("0")),
)

# One row per target of a bare name; the weight is relative to the other targets'.
aliases = Table(
    "aliases",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("digest", String(DIGEST_LENGTH), primary_key=True),
    Column("weight", Double, nullable=False),
    CheckConstraint("weight > 0", name="weight_positive"),
    ForeignKeyConstraint(["name", "digest"], [versions.c.name, versions.c.digest], ondelete="CASCADE"),
)

# Previous targets of a bare name as {digest: weight}; the latest has the highest position.
alias_history = Table(
    "alias_history",
    metadata,
    Column("name", ForeignKey(adapters.c.name, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("targets", JSON, nullable=False),
)

# Other names of models. A target is a model's name as in a request: the base, an adapter or NAME@DIGEST. An alias
# outlives its target and may name a model of another base, so there is no foreign key.
model_aliases = Table(
    "model_aliases",
    metadata,
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("target", String(MAX_MODEL_LENGTH), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("actor", Text, nullable=False),
)

# Rows outlive the adapters they name, so there is no foreign key.
audit = Table(
    "audit",
    metadata,
    # SQLite autoincrements only a column of exactly this type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("adapter", String(MAX_NAME_LENGTH), nullable=False, index=True),
    Column("before", JSON),
    Column("after", JSON),
)
