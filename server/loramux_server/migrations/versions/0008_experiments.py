"""Experiments on live traffic, and the users' feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables, and the index that finds the request of a feedback."""
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("adapter", sa.String(128), nullable=False),
        sa.Column("running", sa.String(128)),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("reason", sa.Text),
        sa.Column("counters", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
        sa.UniqueConstraint("running", name="uq_experiments_running"),
    )
    op.create_index("ix_experiments_adapter", "experiments", ["adapter"])
    _create_requests()
    _create_feedback()
    op.create_index("ix_usage_records_request_id", "usage_records", ["request_id"])


def _create_requests() -> None:
    op.create_table(
        "experiment_requests",
        sa.Column("id", _ID, nullable=False),
        sa.Column("experiment", sa.String(40), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("unit", sa.String(32), nullable=False),
        sa.Column("variant", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("duration", sa.Double, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("price_list_cost", sa.BigInteger),
        sa.Column("gpu_hour_cost", sa.BigInteger),
        sa.Column("corrupted", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_experiment_requests"),
    )
    op.create_index("ix_experiment_requests_experiment", "experiment_requests", ["experiment"])


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("label", sa.String(8)),
        sa.Column("route", sa.String(8), nullable=False),
        sa.Column("adapter", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("experiment", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "request_id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_at", "feedback", ["at"])
