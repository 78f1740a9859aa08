"""Limits that are set at run time, and the accounts that several servers share."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "limits",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_limits"),
    )
    op.create_table(
        "limit_accounts",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("account", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_limit_accounts"),
    )
    op.create_table(
        "limit_servers",
        sa.Column("server", sa.String(16), nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("server", name="pk_limit_servers"),
    )
