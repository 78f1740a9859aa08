"""Idempotency keys of fine-tuning jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column."""
    op.add_column("fine_tuning_jobs", sa.Column("idempotency_key", sa.String(64)))
    op.create_index("ix_fine_tuning_jobs_idempotency_key", "fine_tuning_jobs", ["idempotency_key"], unique=True)
