"""The ledger's tables: usage records, hourly rollups, engine time, training costs, price lists and calibrations."""

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s"})

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite autoincrements only INTEGER columns

_GROUP = (
    ("route", 8),  # base, adapter, or none
    ("adapter", 128),
    ("version", 64),
    ("key_id", 64),
    ("operation", 16),
    ("outcome", 16),
)
"""The columns of UsageGroup; empty strings stand for missing values."""

_PROJECT_LENGTH = 64


def _project() -> sa.Column[str]:
    """The project of the key, '' where no key is charged; it follows from the key, so it is in no primary key."""
    return sa.Column("project", sa.String(_PROJECT_LENGTH), nullable=False, server_default="default")


_SUMS = ("input_tokens", "cached_tokens", "output_tokens", "price_list_cost", "gpu_hour_cost")

_COST_MODES = ("price_list", "gpu_hour")


def _unpriced() -> list[sa.Column[int]]:
    """Counts of requests or jobs whose cost is unknown, because no price was set; their cost is stored as 0."""
    return [sa.Column(f"{mode}_unpriced", sa.BigInteger, nullable=False, server_default="0") for mode in _COST_MODES]


usage_records = sa.Table(
    "usage_records",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("ended_at", sa.Double, nullable=False, index=True),
    sa.Column("request_id", sa.String(64), nullable=False, index=True),
    *(sa.Column(name, sa.String(length), nullable=False) for name, length in _GROUP),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("error", sa.String(64)),
    sa.Column("finish_reason", sa.String(32)),
    sa.Column("duration", sa.Double, nullable=False),
    sa.Column("first_token", sa.Double),
    sa.Column("time_per_output_token", sa.Double),
    sa.Column("queue", sa.Double, nullable=False),
    sa.Column("lease_wait", sa.Double, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
    sa.Column("cold", sa.Boolean, nullable=False),
    sa.Column("sequences", sa.Integer, nullable=False),
    sa.Column("preemptions", sa.Integer, nullable=False),
    sa.Column("corrupted", sa.Boolean, nullable=False),
    sa.Column("price_version", sa.String(12), nullable=False),
    *_unpriced(),
    _project(),
)
"""Times in seconds, costs in nano-dollars."""

usage_hours = sa.Table(
    "usage_hours",
    metadata,
    sa.Column("hour", sa.Integer, primary_key=True),
    sa.Column("writer", sa.String(16), primary_key=True),
    *(sa.Column(name, sa.String(length), primary_key=True) for name, length in _GROUP),
    sa.Column("requests", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
    sa.Column("cold", sa.BigInteger, nullable=False),
    sa.Column("distributions", sa.LargeBinary, nullable=False),
    *_unpriced(),
    _project(),
)
"""Rollups per hour since 1970. Each process (`writer`) has its own rows, so no two update the same one."""

engine_minutes = sa.Table(
    "engine_minutes",
    metadata,
    sa.Column("minute", sa.Integer, primary_key=True),
    sa.Column("writer", sa.String(16), primary_key=True),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("busy_seconds", sa.Double, nullable=False),
    sa.Column("requests_cost", sa.BigInteger, nullable=False),
    sa.Column("idle_cost", sa.BigInteger, nullable=False),
)
"""Engine time and its cost, per minute since 1970."""

training_costs = sa.Table(
    "training_costs",
    metadata,
    sa.Column("job", sa.String(40), primary_key=True),
    sa.Column("adapter", sa.String(128), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("price_list_cost", sa.BigInteger, nullable=False),
    sa.Column("gpu_hour_cost", sa.BigInteger, nullable=False),
    sa.Column("price_version", sa.String(12), nullable=False),
    *_unpriced(),
)
"""The cost of each fine-tuning job so far; `at` is the Unix time of its last update."""

price_lists = sa.Table(
    "price_lists",
    metadata,
    sa.Column("version", sa.String(12), primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("prices", sa.JSON, nullable=False),
)
"""The price list of each version, with the prices that are set; `since` is the Unix time of its first use."""

price_changes = sa.Table(
    "price_changes",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("version", sa.String(12), nullable=False),
    sa.Column("origin", sa.String(8), nullable=False),
    sa.Column("actor", sa.String(64)),
)
"""The history of prices: the newest row is in force. `origin`: settings, set or reset; `actor`: an API key's id."""

calibrations = sa.Table(
    "calibrations",
    metadata,
    sa.Column("base", sa.String(255), primary_key=True),
    sa.Column("machine", sa.String(255), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("prefill_seconds", sa.Double, nullable=False),
    sa.Column("decode_seconds", sa.Double, nullable=False),
    sa.Column("lowest", sa.Double, nullable=False),
    sa.Column("highest", sa.Double, nullable=False),
)
"""Measured engine time per input token and per output token, and the range of their ratio, of a base on a machine."""
