"""Uploads in parts, expiry of files, integrations and aliases of jobs, and webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables, and add the columns."""
    op.add_column("files", sa.Column("expires_at", sa.Double))
    op.add_column("fine_tuning_jobs", sa.Column("integrations", sa.JSON))
    op.add_column("fine_tuning_jobs", sa.Column("alias", sa.String(128)))
    _create_uploads()
    op.create_table(
        "webhook_outbox",
        sa.Column("number", _ID, nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("job", sa.String(40), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_webhook_outbox"),
    )
    op.create_index("ix_webhook_outbox_next_at", "webhook_outbox", ["next_at"])


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("file_seconds", sa.Integer),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("file", sa.String(40)),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("upload", sa.String(40), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["upload"], ["uploads.id"], name="fk_upload_parts_uploads", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_upload_parts"),
    )
    op.create_index("ix_upload_parts_upload", "upload_parts", ["upload"])
