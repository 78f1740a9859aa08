"""The registry: adapters, versions, aliases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "adapters",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_adapters"),
    )
    op.create_table(
        "versions",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(12), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("source", sa.JSON, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", "digest", name="pk_versions"),
        sa.ForeignKeyConstraint(["name"], ["adapters.name"], name="fk_versions_adapters", ondelete="CASCADE"),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(12), nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", "digest", name="pk_aliases"),
        sa.ForeignKeyConstraint(
            ["name", "digest"], ["versions.name", "versions.digest"], name="fk_aliases_versions", ondelete="CASCADE"
        ),
        sa.CheckConstraint("weight > 0", name="ck_aliases_weight_positive"),
    )
