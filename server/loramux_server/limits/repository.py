"""Limits in the database, and what the ledger knows of the usage of a subject."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import ValidationError

from loramux_server.limits.account import Account, Window, day_number, day_start, month_number, month_start
from loramux_server.limits.limit import Limit, Subject, SubjectKind
from loramux_server.limits.tables import limits
from loramux_server.metering.ledger.repository import store_errors, upsert
from loramux_server.metering.ledger.tables import usage_hours
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR

_LEDGER_COLUMNS = {SubjectKind.KEY: "key_id", SubjectKind.PROJECT: "project", SubjectKind.ADAPTER: "adapter"}


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """The limits of a subject that were set at run time."""

    limit: Limit
    changed_at: float
    """Unix seconds."""
    actor: str
    """Id of the API key that set them."""


class LimitRepository:
    """Reads and writes limits; all methods block on the database.

    Raises:
        StoreError: the database can't be read or written.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def all(self) -> Mapping[Subject, StoredLimit]:
        """Return all limits; of those that a newer release wrote, the limits that this one knows."""
        with store_errors("The limits can't be read from the database."), self._database.connect() as connection:
            rows = connection.execute(sa.select(limits)).all()
        return {
            Subject(SubjectKind(row.kind), row.name): StoredLimit(_parse(row.limits), row.changed_at, row.actor)
            for row in rows
        }

    def set(self, subject: Subject, limit: Limit, actor: str) -> None:
        """Replace the limits of a subject."""
        row = {
            "kind": subject.kind.value,
            "name": subject.name,
            "limits": limit.model_dump(mode="json", exclude_none=True),
            "changed_at": time.time(),
            "actor": actor,
        }
        with store_errors("The limits can't be written to the database."), self._database.begin() as connection:
            upsert(connection, limits, [row])

    def remove(self, subject: Subject) -> bool:
        """Remove the limits of a subject; returns whether it had any."""
        where = (limits.c.kind == subject.kind.value, limits.c.name == subject.name)
        with store_errors("The limits can't be written to the database."), self._database.begin() as connection:
            return bool(connection.execute(limits.delete().where(*where)).rowcount)

    def open_account(self, subject: Subject, now: float) -> Account:
        """Return a new account with what the ledger has of this day and month."""
        with store_errors("The usage ledger can't be read."), self._database.connect() as connection:
            day, month = (_spent(connection, subject, start) for start in (day_start(now), month_start(now)))
        return Account(day=Window(day_number(now), *day), month=Window(month_number(now), *month))


def _spent(connection: sa.Connection, subject: Subject, since: float) -> tuple[int, int]:
    """Return the tokens and nano-dollars of a subject since the start of an hour; rollups have the present one too."""
    table = usage_hours.c
    tokens, cost = sa.func.sum(table.input_tokens + table.output_tokens), sa.func.sum(table.price_list_cost)
    where = (table.hour >= int(since // SECONDS_PER_HOUR), table[_LEDGER_COLUMNS[subject.kind]] == subject.name)
    found = connection.execute(sa.select(sa.func.coalesce(tokens, 0), sa.func.coalesce(cost, 0)).where(*where)).one()
    return int(found[0]), int(found[1])


def _parse(values: Mapping[str, object]) -> Limit:
    try:
        return Limit.model_validate({name: value for name, value in values.items() if name in Limit.model_fields})
    except ValidationError:  # a newer release may allow other values; no limit would be worse than the strictest
        return Limit(concurrent_requests=0)
