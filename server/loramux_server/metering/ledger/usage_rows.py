"""Converts charged requests to rows of usage_records, and rows to hourly totals."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from loramux_server.metering.ledger.distributions import MEASURES, Distributions
from loramux_server.metering.ledger.labels import UsageGroup
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR
from loramux_server.metering.usage_record import Charge, Outcome, UsageRecord


@dataclass(frozen=True, eq=False, kw_only=True)
class HourTotals:
    """Totals of the requests of a group in an hour; costs in nano-dollars."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    price_list_cost: int
    gpu_hour_cost: int
    price_list_unpriced: int
    """Requests without a price, which are not in `price_list_cost`."""
    gpu_hour_unpriced: int
    cold: int
    distributions: Distributions

    def __add__(self, other: "HourTotals") -> "HourTotals":
        names = (field.name for field in fields(self))
        return HourTotals(**{name: getattr(self, name) + getattr(other, name) for name in names})


_UNPRICED = {"price_list_cost": "price_list_unpriced", "gpu_hour_cost": "gpu_hour_unpriced"}
SUMMED_COLUMNS = tuple(field.name for field in fields(HourTotals) if field.name not in ("requests", "distributions"))


def usage_row(record: UsageRecord, charge: Charge) -> dict[str, Any]:
    """Return the row of usage_records for a request."""
    route, stats = record.route, record.stats
    return {
        "ended_at": record.ended_at,
        "request_id": record.request_id,
        "route": route.kind if route else "none",
        "adapter": (route and route.adapter) or "",
        "version": (route and route.version) or "",
        "key_id": record.key_id or "",
        "operation": record.operation,
        "outcome": record.outcome,
        "status": record.status,
        "error": record.error,
        "finish_reason": stats.finish_reason,
        "duration": record.duration,
        "first_token": stats.first_token,
        "time_per_output_token": stats.time_per_output_token,
        "queue": stats.queue,
        "lease_wait": stats.lease_wait,
        "input_tokens": stats.input_tokens,
        "cached_tokens": stats.cached_tokens,
        "output_tokens": stats.output_tokens,
        "sequences": stats.sequences,
        "preemptions": stats.preemptions,
        "cold": stats.cold,
        "corrupted": stats.corrupted,
        "price_list_cost": charge.price_list or 0,
        "gpu_hour_cost": charge.gpu_hour or 0,
        "price_list_unpriced": int(charge.price_list is None),
        "gpu_hour_unpriced": int(charge.gpu_hour is None),
        "price_version": charge.price_version,
    }


def totals_by_hour(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[int, UsageGroup], HourTotals]:
    """Return the totals of rows of usage_records, by the hour in which they ended and their group.

    The distributions are of successful requests only: the latency of a refusal says nothing about a route.
    """
    gathered = defaultdict(list)
    for each in rows:
        group = UsageGroup(*(str(each[name]) for name in UsageGroup._fields))
        gathered[int(each["ended_at"] // SECONDS_PER_HOUR), group].append(each)
    return {key: _totals(key[1], members) for key, members in gathered.items()}


def _totals(group: UsageGroup, members: list[Mapping[str, Any]]) -> HourTotals:
    measured = members if group.outcome == Outcome.OK else []
    return HourTotals(
        requests=len(members),
        **{name: sum(int(member[name]) for member in members) for name in SUMMED_COLUMNS},
        distributions=Distributions.of({name: [_measured(member, name) for member in measured] for name in MEASURES}),
    )


def _measured(row: Mapping[str, Any], name: str) -> float | None:
    """Return a measure of a request, None for a cost that is unknown."""
    return None if name in _UNPRICED and row[_UNPRICED[name]] else row[name]
