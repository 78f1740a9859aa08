"""What is read from the ledger: what requests add up to in a range of time, by whatever tells them apart."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.distributions import Distributions
from loramux_server.metering.ledger.labels import Group, GroupBy, Label, labelling
from loramux_server.metering.ledger.tables import engine_minutes, usage_hours, usage_records
from loramux_server.metering.ledger.time_range import Span
from loramux_server.metering.ledger.usage_rows import SUMS, totals_by_hour


@dataclass(eq=False)
class Usage:
    """What the requests of one label did, whatever their end; costs in nano-dollars."""

    outcomes: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    """By the names in SUMS."""
    packed: list[bytes] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many there were."""
        return self.outcomes.total()

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.outcomes + other.outcomes, self.sums + other.sums, self.packed + other.packed)

    def distributions(self) -> Distributions:
        """How the measures of those that ended well are distributed."""
        return Distributions.unpack(self.packed)


class LedgerReader:
    """Reads the sums of whole hours, and the records themselves for what a range has besides."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def usage(self, span: Span, by: GroupBy, only: Mapping[str, str] | None = None) -> dict[Label, Usage]:
        """Return what requests that ended in `span` did; `only` those whose columns have these values."""
        label, found = labelling(by), dict[Label, Usage]()
        with self._database.connect() as connection:
            for entry in _entries(connection, span, only or {}):
                usage = found.setdefault(label(entry.hour, entry.group), Usage())
                usage.outcomes[entry.group.outcome] += entry.requests
                usage.sums.update(dict(zip(SUMS, entry.sums, strict=True)))
                usage.packed.append(entry.distributions)
        return found

    def engine_time(self, span: Span) -> EngineTime:
        """Return where the engine's time went in the minutes that `span` touches."""
        table, sums = engine_minutes.c, ("seconds", "busy_seconds", "requests_cost", "idle_cost")
        within = table.minute.between(int(span.since // 60), int(span.until // 60))
        query = sa.select(*(sa.func.coalesce(sa.func.sum(table[name]), 0) for name in sums)).where(within)
        with self._database.connect() as connection:
            seconds, busy, requests, idle = connection.execute(query).one()
        return EngineTime(float(seconds), float(busy), int(requests), int(idle))


class _Entry(NamedTuple):
    hour: int
    group: Group
    requests: int
    sums: tuple[int, ...]
    distributions: bytes


def _entries(connection: sa.Connection, span: Span, only: Mapping[str, str]) -> Iterator[_Entry]:
    for edge in span.edges:
        table = usage_records.c
        within = (table.ended_at >= edge.since, table.ended_at < edge.until, *_matching(usage_records, only))
        rows = connection.execute(sa.select(usage_records).where(*within)).mappings()
        for (hour, group), totals in totals_by_hour(map(dict, rows)).items():
            sums = tuple(getattr(totals, name) for name in SUMS)
            yield _Entry(hour, group, totals.requests, sums, totals.distributions.pack())
    if span.hours:
        table = usage_hours.c
        columns = ("hour", *Group._fields, "requests", *SUMS, "distributions")
        within = (table.hour >= span.hours.start, table.hour < span.hours.stop, *_matching(usage_hours, only))
        for hour, *rest in connection.execute(sa.select(*(table[name] for name in columns)).where(*within)):
            size = len(Group._fields)
            yield _Entry(hour, Group(*rest[:size]), rest[size], tuple(rest[size + 1 : -1]), rest[-1])


def _matching(table: sa.Table, only: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in only.items()]
