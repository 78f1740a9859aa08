"""Queries the ledger: the usage of a time range, grouped by a dimension."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import sqlalchemy as sa

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.distributions import Distributions
from loramux_server.metering.ledger.labels import GroupBy, Label, UsageGroup, label_function
from loramux_server.metering.ledger.tables import engine_minutes, usage_hours, usage_records
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.ledger.usage_rows import SUMMED_COLUMNS, TOTALED_COLUMNS, totals_by_hour


@dataclass(eq=False)
class UsageTotals:
    """The usage of all requests of one label, whatever their outcome; costs in nano-dollars."""

    outcomes: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    """Sums by the names in SUMMED_COLUMNS."""
    packed: list[bytes] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.outcomes.total()

    @property
    def unpriced(self) -> Mapping[str, int]:
        """The number of requests whose cost is unknown, because no price was set, by cost mode."""
        return {mode: self.sums[f"{mode}_unpriced"] for mode in ("price_list", "gpu_hour")}

    def __add__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(self.outcomes + other.outcomes, self.sums + other.sums, self.packed + other.packed)

    def distributions(self) -> Distributions:
        """Return the distributions of the successful requests."""
        return Distributions.unpack(self.packed)


class LedgerReader:
    """Reads the rollups of whole hours, and single records for the rest of a time range."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def usage(
        self, time_range: TimeRange, by: GroupBy, where: Mapping[str, str] | None = None
    ) -> dict[Label, UsageTotals]:
        """Return the usage of requests that ended in `time_range`, filtered by the column values in `where`."""
        label, found = label_function(by), dict[Label, UsageTotals]()
        with self._database.connect() as connection:
            for entry in _entries(connection, time_range, where or {}):
                usage = found.setdefault(label(entry.hour, entry.group), UsageTotals())
                usage.outcomes[entry.group.outcome] += entry.requests
                usage.sums.update(dict(zip(SUMMED_COLUMNS, entry.sums, strict=True)))
                usage.packed.append(entry.distributions)
        return found

    def engine_time(self, time_range: TimeRange) -> EngineTime:
        """Return the engine time of the minutes that overlap `time_range`."""
        table, sums = engine_minutes.c, ("seconds", "busy_seconds", "requests_cost", "idle_cost")
        within = (table.minute >= int(time_range.since // 60), table.minute < ceil(time_range.until / 60))
        query = sa.select(*(sa.func.coalesce(sa.func.sum(table[name]), 0) for name in sums)).where(*within)
        with self._database.connect() as connection:
            seconds, busy, requests, idle = connection.execute(query).one()
        return EngineTime(float(seconds), float(busy), int(requests), int(idle))


class _HourEntry(NamedTuple):
    hour: int
    group: UsageGroup
    requests: int
    sums: tuple[int, ...]
    distributions: bytes


def _entries(connection: sa.Connection, time_range: TimeRange, where: Mapping[str, str]) -> Iterator[_HourEntry]:
    for edge in time_range.edges:
        table = usage_records.c
        within = (table.ended_at >= edge.since, table.ended_at < edge.until, *_conditions(usage_records, where))
        rows = connection.execute(sa.select(*(table[name] for name in TOTALED_COLUMNS)).where(*within)).all()
        values = zip(*rows, strict=True) if rows else ([] for _ in TOTALED_COLUMNS)
        for (hour, group), totals in totals_by_hour(dict(zip(TOTALED_COLUMNS, values, strict=True))).items():
            sums = tuple(getattr(totals, name) for name in SUMMED_COLUMNS)
            yield _HourEntry(hour, group, totals.requests, sums, totals.distributions.pack())
    if time_range.hours:
        table = usage_hours.c
        columns = ("hour", *UsageGroup._fields, "requests", *SUMMED_COLUMNS, "distributions")
        within = (
            table.hour >= time_range.hours.start,
            table.hour < time_range.hours.stop,
            *_conditions(usage_hours, where),
        )
        for hour, *rest in connection.execute(sa.select(*(table[name] for name in columns)).where(*within)):
            size = len(UsageGroup._fields)
            yield _HourEntry(hour, UsageGroup(*rest[:size]), rest[size], tuple(rest[size + 1 : -1]), rest[-1])


def _conditions(table: sa.Table, where: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in where.items()]
