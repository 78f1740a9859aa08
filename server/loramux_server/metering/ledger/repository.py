"""What is written into the ledger's tables, a transaction a batch."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.labels import Group
from loramux_server.metering.ledger.tables import engine_minutes, price_lists, usage_hours, usage_records
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR
from loramux_server.metering.ledger.usage_rows import SUMS, Totals, totals_by_hour
from loramux_server.metering.pricing import Prices

FORGET_AT_ONCE = 10_000
"""Rows in one transaction: others wait for it."""


class Book:
    """The tables, for one process that writes; several may, each into sums of its own.

    What is added up lives here until its hour is over, so a row is only ever replaced, and a batch that could not be
    written may be written again.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database, self._writer = database, secrets.token_hex(8)
        self._hours: dict[tuple[int, Group], Totals] = {}

    def write(self, records: Sequence[Mapping[str, Any]], minutes: Mapping[int, EngineTime]) -> None:
        """Enter new records, and what the minutes hold up to now; all of it or, raising SQLAlchemyError, nothing."""
        new = totals_by_hour(records)
        hours = {key: self._hours[key] + totals if key in self._hours else totals for key, totals in new.items()}
        with self._database.begin() as connection:
            if records:
                connection.execute(usage_records.insert(), records)
            replace(connection, usage_hours, [self._hour(*key, totals) for key, totals in hours.items()])
            replace(connection, engine_minutes, [self._minute(minute, time) for minute, time in minutes.items()])
        newest = max((hour for hour, _ in hours), default=0)
        self._hours = {key: totals for key, totals in (self._hours | hours).items() if key[0] >= newest - 1}

    def note_prices(self, prices: Prices, now: float) -> None:
        """Keep what the price version means that is on the records from now on."""
        with self._database.begin() as connection:
            known = sa.select(price_lists.c.version).where(price_lists.c.version == prices.version)
            if connection.execute(known).first() is None:
                values = {"version": prices.version, "since": now, "prices": prices.model_dump(mode="json")}
                connection.execute(price_lists.insert(), values)

    def forget(self, records_before: float, sums_before: float) -> int:
        """Delete some of what ended before these moments; returns how many rows, 0 when all is gone."""
        old = sa.select(usage_records.c.id).where(usage_records.c.ended_at < records_before).limit(FORGET_AT_ONCE)
        with self._database.begin() as connection:
            gone = connection.execute(usage_records.delete().where(usage_records.c.id.in_(old))).rowcount
            first = sums_before // SECONDS_PER_HOUR
            connection.execute(usage_hours.delete().where(usage_hours.c.hour < first))
            connection.execute(engine_minutes.delete().where(engine_minutes.c.minute < first * 60))
        return gone

    def _hour(self, hour: int, group: Group, totals: Totals) -> dict[str, Any]:
        sums: dict[str, Any] = {name: getattr(totals, name) for name in ("requests", *SUMS)}
        return {
            "hour": hour,
            "writer": self._writer,
            **group._asdict(),
            **sums,
            "distributions": totals.distributions.pack(),
        }

    def _minute(self, minute: int, time: EngineTime) -> dict[str, Any]:
        return {
            "minute": minute,
            "writer": self._writer,
            "seconds": time.seconds,
            "busy_seconds": time.busy_seconds,
            "requests_cost": time.requests_nanodollars,
            "idle_cost": time.idle_nanodollars,
        }


def replace(connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert the rows, over those with the same key; raises SQLAlchemyError."""
    rows = list(rows)
    if not rows:
        return
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    keys = [column.name for column in table.primary_key]
    changes = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changes), rows)
