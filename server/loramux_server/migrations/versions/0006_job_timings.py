"""Timings of fine-tuning jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("fine_tuning_jobs", sa.Column("timings", sa.JSON))
