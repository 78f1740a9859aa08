"""Prices that change at run time, unpriced requests, and measured weights.

Earlier releases stored a cost of 0 for requests without a price. Records get their price list's answer; rollups, which
know no price list, count as unpriced if they have tokens and no cost.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MODES = ("price_list", "gpu_hour")


def upgrade() -> None:
    """Create the tables and columns, and fill them from what the ledger knows."""
    for table in ("usage_records", "usage_hours", "training_costs"):
        for mode in _MODES:
            op.add_column(table, sa.Column(f"{mode}_unpriced", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "price_changes",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("origin", sa.String(8), nullable=False),
        sa.Column("actor", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_price_changes"),
    )
    op.create_table(
        "calibrations",
        sa.Column("base", sa.String(255), nullable=False),
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("prefill_seconds", sa.Double, nullable=False),
        sa.Column("decode_seconds", sa.Double, nullable=False),
        sa.Column("lowest", sa.Double, nullable=False),
        sa.Column("highest", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("base", "machine", name="pk_calibrations"),
    )
    _fill()


def _fill() -> None:
    connection = op.get_bind()
    lists = list(connection.execute(sa.text("SELECT version, since, prices FROM price_lists ORDER BY since")))
    for version, since, _ in lists:
        values = {"at": since, "version": version}
        statement = "INSERT INTO price_changes (at, version, origin) VALUES (:at, :version, 'settings')"
        connection.execute(sa.text(statement), values)
    for version, _, prices in lists:
        for table, is_charged, price in (
            ("usage_records", "outcome <> 'refused'", "base"),
            ("training_costs", "tokens > 0", "training_tokens"),
        ):
            for mode in _unpriced_modes(_parsed(prices), price):
                is_unpriced = f"{mode}_cost = 0 AND {is_charged} AND price_version = :version"
                statement = f"UPDATE {table} SET {mode}_unpriced = 1 WHERE {is_unpriced}"  # noqa: S608
                connection.execute(sa.text(statement), {"version": version})
    for mode in _MODES:
        statement = f"UPDATE usage_hours SET {mode}_unpriced = requests WHERE {mode}_cost = 0 AND input_tokens + output_tokens > 0 AND outcome <> 'refused'"  # noqa: E501, S608
        connection.execute(sa.text(statement))


def _parsed(prices: Any) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = json.loads(prices) if isinstance(prices, str) else prices  # SQLite returns JSON as text
    return parsed


def _unpriced_modes(prices: Mapping[str, Any], price: str) -> Iterator[str]:
    of_tokens = prices.get(price) or {}
    values = of_tokens.values() if isinstance(of_tokens, Mapping) else [of_tokens]
    if not any(Decimal(str(value or 0)) for value in values):
        yield "price_list"
    if not Decimal(str(prices.get("gpu_hour") or 0)):
        yield "gpu_hour"
