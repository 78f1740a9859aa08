"""The tables of experiments: experiments, their requests, and the users' feedback on any request."""

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s"})

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite autoincrements only INTEGER columns

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("adapter", sa.String(128), nullable=False, index=True),
    # The adapter's name while the experiment runs, so that no adapter has two.
    sa.Column("running", sa.String(128)),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("counters", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON),
    sa.UniqueConstraint("running", name="uq_experiments_running"),
)

observations = sa.Table(
    "experiment_requests",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("experiment", sa.String(40), nullable=False, index=True),
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
)
"""Costs in nano-dollars, null where no price was set."""

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("first_at", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("label", sa.String(8)),
    sa.Column("route", sa.String(8), nullable=False),
    sa.Column("adapter", sa.String(128), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("experiment", sa.String(40), nullable=False),
)
"""`at` is the last change; `experiment` is empty for requests outside of experiments."""
