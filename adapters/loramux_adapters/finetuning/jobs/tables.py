"""The database tables of fine-tuning: uploaded files, jobs, their events, and checkpoints that can be served."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import DEFAULT_PROJECT, MAX_NAME_LENGTH, MAX_PROJECT_LENGTH

ID_LENGTH = 40
"""Longer than the ids of `new_id`, to leave room for longer prefixes."""

metadata = MetaData(
    naming_convention={
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(column_0_label)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

files = Table(
    "files",
    metadata,
    Column("id", String(ID_LENGTH), primary_key=True),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),  # chosen by the client, never used as a path
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("report", JSON),
    Column("expires_at", Double),
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(ID_LENGTH), primary_key=True),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("file_seconds", Integer),  # after which the file expires
    Column("status", String(16), nullable=False),
    Column("file", String(ID_LENGTH)),
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", String(ID_LENGTH), primary_key=True),
    Column("upload", ForeignKey(uploads.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
)

jobs = Table(
    "fine_tuning_jobs",
    metadata,
    # Jobs run in the order of their creation; times can be equal.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", String(ID_LENGTH), nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("created_by", String(64), nullable=False),
    # Stored as text without a constraint: a new state then needs no migration.
    Column("state", Enum(JobState, native_enum=False, length=32, values_callable=list), nullable=False, index=True),
    Column("base", String(MAX_NAME_LENGTH), nullable=False),
    Column("name", String(MAX_NAME_LENGTH), nullable=False),  # of the model that the job makes
    Column("from_version", String(MAX_NAME_LENGTH + 16)),  # NAME@DIGEST that the training goes on from
    Column("suffix", String(64)),
    # No foreign keys: the files may be deleted when the job has ended.
    Column("training_file", String(ID_LENGTH), nullable=False),
    Column("validation_file", String(ID_LENGTH)),
    Column("seed", BigInteger, nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("recipe", JSON),
    Column("metadata", JSON),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("progress", JSON),
    Column("timings", JSON),
    Column("result_files", JSON, nullable=False),
    Column("error", JSON),
    Column("integrations", JSON),
    Column("alias", String(MAX_NAME_LENGTH)),  # made when the job succeeds
    Column("idempotency_key", String(64), unique=True, index=True),  # of the request that created it, hashed
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
)
"""`wanted` holds the requested hyperparameters, `recipe` the chosen ones; see JobProgress and JobTimings for others."""

events = Table(
    "fine_tuning_events",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", String(ID_LENGTH), nullable=False, unique=True),
    Column("job", ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON),
)

checkpoints = Table(
    "fine_tuning_checkpoints",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", String(ID_LENGTH), nullable=False, unique=True),
    Column("job", ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("step", Integer, nullable=False),
    Column("version", String(MAX_NAME_LENGTH + 16), nullable=False),  # NAME@DIGEST
    Column("metrics", JSON, nullable=False),
)
