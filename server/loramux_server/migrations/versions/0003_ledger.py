"""The usage ledger: one row per request, hourly rollups, engine time per minute, and price lists."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "usage_records",
        sa.Column("id", _ID, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        *_group(),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("error", sa.String(64)),
        sa.Column("finish_reason", sa.String(32)),
        sa.Column("duration", sa.Double, nullable=False),
        sa.Column("first_token", sa.Double),
        sa.Column("time_per_output_token", sa.Double),
        sa.Column("queue", sa.Double, nullable=False),
        sa.Column("lease_wait", sa.Double, nullable=False),
        *_sums(),
        sa.Column("cold", sa.Boolean, nullable=False),
        sa.Column("sequences", sa.Integer, nullable=False),
        sa.Column("preemptions", sa.Integer, nullable=False),
        sa.Column("corrupted", sa.Boolean, nullable=False),
        sa.Column("price_version", sa.String(12), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_records"),
    )
    op.create_index("ix_usage_records_ended_at", "usage_records", ["ended_at"])
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.Integer, nullable=False),
        sa.Column("writer", sa.String(16), nullable=False),
        *_group(),
        sa.Column("requests", sa.BigInteger, nullable=False),
        *_sums(),
        sa.Column("cold", sa.BigInteger, nullable=False),
        sa.Column("distributions", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("hour", "writer", *(column.name for column in _group()), name="pk_usage_hours"),
    )
    op.create_table(
        "engine_minutes",
        sa.Column("minute", sa.Integer, nullable=False),
        sa.Column("writer", sa.String(16), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("busy_seconds", sa.Double, nullable=False),
        sa.Column("requests_cost", sa.BigInteger, nullable=False),
        sa.Column("idle_cost", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("minute", "writer", name="pk_engine_minutes"),
    )
    op.create_table(
        "price_lists",
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("prices", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_price_lists"),
    )


def _group() -> list[sa.Column[str]]:
    lengths = {"route": 8, "adapter": 128, "version": 64, "key_id": 64, "operation": 16, "outcome": 16}
    return [sa.Column(name, sa.String(length), nullable=False) for name, length in lengths.items()]


def _sums() -> list[sa.Column[int]]:
    names = ("input_tokens", "cached_tokens", "output_tokens", "price_list_cost", "gpu_hour_cost")
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
