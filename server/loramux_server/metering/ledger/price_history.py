"""The history of price lists in the database: the newest change is in force on all servers that share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from loramux_server.metering.ledger.repository import store_errors, upsert
from loramux_server.metering.ledger.tables import price_changes, price_lists
from loramux_server.metering.pricing import Prices


class PriceOrigin(StrEnum):
    """How a price list came into force."""

    SETTINGS = "settings"
    """A server started with these prices in its settings."""
    SET = "set"
    """Somebody set them at run time."""
    RESET = "reset"
    """Somebody returned to the prices of the settings."""


@dataclass(frozen=True)
class PriceChange:
    """A price list that came into force at a Unix time, by an API key (None: by a start of the server)."""

    number: int
    at: float
    version: str
    origin: PriceOrigin
    actor: str | None
    prices: dict[str, Any]
    """The prices that are set, in the format of `prices` in loramux.yaml; of a newer release, it may have more keys."""


class PricesChangedError(Exception):
    """The prices in force are not the version that the caller expected."""


class PriceHistory:
    """Reads and appends changes; all methods block on the database.

    Raises:
        StoreError: the database can't be read or written.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def newest(self) -> PriceChange | None:
        """Return the change that is in force, None if there was none yet."""
        return next(iter(self.changes(1)), None)

    def changes(self, limit: int) -> Sequence[PriceChange]:
        """Return the newest changes, newest first."""
        with store_errors("The prices can't be read from the database."), self._database.connect() as connection:
            return _read(connection, limit)

    def add(
        self, prices: Prices, origin: PriceOrigin, actor: str | None, now: float, expected: str | None = None
    ) -> None:
        """Append a change that is in force from `now` on.

        Raises:
            PricesChangedError: another version than `expected` is in force.
        """
        version = prices.version
        values = {"version": version, "since": now, "prices": prices.model_dump(mode="json", exclude_unset=True)}
        with store_errors("The prices can't be written to the database."), self._database.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE price_changes IN SHARE ROW EXCLUSIVE MODE"))
            upsert(connection, price_lists, [values], unchanged=("since",))  # in SQLite, the first write locks
            newest = next(iter(_read(connection, 1)), None)
            if expected is not None and (newest is None or newest.version != expected):
                raise PricesChangedError
            change = {"at": now, "version": version, "origin": origin.value, "actor": actor}
            connection.execute(price_changes.insert(), change)


def _read(connection: sa.Connection, limit: int) -> Sequence[PriceChange]:
    columns, lists = price_changes.c, price_lists.c
    query = (
        sa.select(columns.id, columns.at, columns.version, columns.origin, columns.actor, lists.prices)
        .join(price_lists, lists.version == columns.version)
        .order_by(columns.id.desc())
        .limit(limit)
    )
    return [
        PriceChange(number, at, version, PriceOrigin(origin), actor, prices)
        for number, at, version, origin, actor, prices in connection.execute(query)
    ]
