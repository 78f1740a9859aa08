"""Lifecycle of versions: effect check, uses, alias history, pins, audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns and create the tables; existing versions stay served."""
    op.add_column("adapters", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("versions", sa.Column("reason", sa.Text))
    op.add_column("versions", sa.Column("proof", sa.Text))
    op.add_column("versions", sa.Column("promote", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("versions", sa.Column("uses", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "alias_history",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("targets", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", "position", name="pk_alias_history"),
        sa.ForeignKeyConstraint(["name"], ["adapters.name"], name="fk_alias_history_adapters", ondelete="CASCADE"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("adapter", sa.String(128), nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_adapter", "audit", ["adapter"])
