"""The version that a fine-tuning job goes on from."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column."""
    op.add_column("fine_tuning_jobs", sa.Column("from_version", sa.String(144)))
