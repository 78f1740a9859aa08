"""Fine-tuning: files, jobs, their events and checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("base", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("training_file", sa.String(40), nullable=False),
        sa.Column("validation_file", sa.String(40)),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("wanted", sa.JSON, nullable=False),
        sa.Column("recipe", sa.JSON),
        sa.Column("metadata", sa.JSON),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("progress", sa.JSON),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.PrimaryKeyConstraint("number", name="pk_fine_tuning_jobs"),
        sa.UniqueConstraint("id", name="uq_fine_tuning_jobs_id"),
    )
    op.create_index("ix_fine_tuning_jobs_state", "fine_tuning_jobs", ["state"])
    _create_job_table(
        "fine_tuning_events",
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON),
    )
    _create_job_table(
        "fine_tuning_checkpoints",
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("version", sa.String(144), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
    )


def _create_job_table(table: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        table,
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("job", sa.String(40), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("number", name=f"pk_{table}"),
        sa.UniqueConstraint("id", name=f"uq_{table}_id"),
        sa.ForeignKeyConstraint(
            ["job"], ["fine_tuning_jobs.id"], name=f"fk_{table}_fine_tuning_jobs", ondelete="CASCADE"
        ),
    )
    op.create_index(f"ix_{table}_job", table, ["job"])
