"""Writes the ledger's tables, one transaction per batch."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from loramux_adapters.errors import StoreError
from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.labels import UsageGroup
from loramux_server.metering.ledger.tables import engine_minutes, usage_hours, usage_records
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR
from loramux_server.metering.ledger.usage_rows import SUMMED_COLUMNS, TOTALED_COLUMNS, HourTotals, totals_by_hour

DELETE_BATCH = 10_000
"""Rows deleted per transaction: other writers wait for it."""


class LedgerRepository:
    """Writes the ledger for one process; each process has its own rollup rows.

    Totals of the current hour are kept in memory, so rollup rows are only ever replaced, and a failed batch can be
    written again.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database, self._writer = database, secrets.token_hex(8)
        self._hours: dict[tuple[int, UsageGroup], HourTotals] = {}

    def write(self, records: Sequence[Mapping[str, Any]], minutes: Mapping[int, EngineTime]) -> None:
        """Insert new records, and the totals of these minutes so far, in one transaction.

        Raises:
            SQLAlchemyError: nothing was written.
        """
        new = totals_by_hour({name: [row[name] for row in records] for name in TOTALED_COLUMNS})
        hours = {key: self._hours[key] + totals if key in self._hours else totals for key, totals in new.items()}
        with self._database.begin() as connection:
            if records:
                connection.execute(usage_records.insert(), records)
            upsert(connection, usage_hours, [self._hour_row(*key, totals) for key, totals in hours.items()])
            upsert(connection, engine_minutes, [self._minute_row(minute, time) for minute, time in minutes.items()])
        newest = max((hour for hour, _ in hours), default=0)
        self._hours = {key: totals for key, totals in (self._hours | hours).items() if key[0] >= newest - 1}

    def delete_expired(self, records_before: float, rollups_before: float) -> int:
        """Delete up to DELETE_BATCH records and all rollups older than these times; returns the number of records."""
        old = sa.select(usage_records.c.id).where(usage_records.c.ended_at < records_before).limit(DELETE_BATCH)
        with self._database.begin() as connection:
            deleted = connection.execute(usage_records.delete().where(usage_records.c.id.in_(old))).rowcount
            first = rollups_before // SECONDS_PER_HOUR
            connection.execute(usage_hours.delete().where(usage_hours.c.hour < first))
            connection.execute(engine_minutes.delete().where(engine_minutes.c.minute < first * 60))
        return deleted

    def _hour_row(self, hour: int, group: UsageGroup, totals: HourTotals) -> dict[str, Any]:
        sums: dict[str, Any] = {name: getattr(totals, name) for name in ("requests", *SUMMED_COLUMNS)}
        return {
            "hour": hour,
            "writer": self._writer,
            **group._asdict(),
            **sums,
            "distributions": totals.distributions.pack(),
        }

    def _minute_row(self, minute: int, time: EngineTime) -> dict[str, Any]:
        return {
            "minute": minute,
            "writer": self._writer,
            "seconds": time.seconds,
            "busy_seconds": time.busy_seconds,
            "requests_cost": time.requests_nanodollars,
            "idle_cost": time.idle_nanodollars,
        }


@contextmanager
def store_errors(message: str) -> Iterator[None]:
    """Convert errors of the database.

    Raises:
        StoreError: the database can't be reached, with this message.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(message) from error


def upsert(
    connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]], unchanged: Collection[str] = ()
) -> None:
    """Insert the rows, replacing those with the same primary key, except their `unchanged` columns.

    Raises:
        SQLAlchemyError: the rows could not be written.
    """
    rows = list(rows)
    if not rows:
        return
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name for column in table.columns if not column.primary_key}.difference(unchanged)
    changes = {column.name: insert.excluded[column.name] for column in table.columns if column.name in changed}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changes), rows)
