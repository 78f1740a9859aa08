"""Costs of fine-tuning jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "training_costs",
        sa.Column("job", sa.String(40), nullable=False),
        sa.Column("adapter", sa.String(128), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("price_list_cost", sa.BigInteger, nullable=False),
        sa.Column("gpu_hour_cost", sa.BigInteger, nullable=False),
        sa.Column("price_version", sa.String(12), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_training_costs"),
    )
    op.create_index("ix_training_costs_adapter", "training_costs", ["adapter"])
