"""The project that adapters, files, uploads, jobs and usage belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_TABLES = ("adapters", "files", "uploads", "fine_tuning_jobs", "usage_records", "usage_hours")


def upgrade() -> None:
    """Add the columns; what is there belongs to the project `default`."""
    for table in _TABLES:
        op.add_column(table, sa.Column("project", sa.String(64), nullable=False, server_default="default"))
