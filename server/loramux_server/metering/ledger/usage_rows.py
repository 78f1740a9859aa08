"""What a charged request is in the ledger's tables: its row, and what rows add up to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from loramux_server.metering.ledger.distributions import MEASURES, Distributions
from loramux_server.metering.ledger.labels import Group
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR
from loramux_server.metering.usage_record import Charge, Outcome, UsageRecord


@dataclass(frozen=True, eq=False, kw_only=True)
class Totals:
    """What the requests of a group add up to; costs in nano-dollars."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    price_list_cost: int
    gpu_hour_cost: int
    cold: int
    distributions: Distributions

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


SUMS = tuple(field.name for field in fields(Totals) if field.name not in ("requests", "distributions"))


def row(record: UsageRecord, charge: Charge) -> dict[str, Any]:
    """Return the request as a row of usage_records."""
    route, facts = record.route, record.facts
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
        "finish_reason": facts.finish_reason,
        "duration": record.duration,
        "first_token": facts.first_token,
        "time_per_output_token": facts.time_per_output_token,
        "queue": facts.queue,
        "lease_wait": facts.lease_wait,
        "input_tokens": facts.input_tokens,
        "cached_tokens": facts.cached_tokens,
        "output_tokens": facts.output_tokens,
        "sequences": facts.sequences,
        "preemptions": facts.preemptions,
        "cold": facts.cold,
        "corrupted": facts.corrupted,
        "price_list_cost": charge.price_list,
        "gpu_hour_cost": charge.gpu_hour,
        "price_version": charge.price_version,
    }


def totals_by_hour(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[int, Group], Totals]:
    """Return what the rows of usage_records add up to, by the hour in which they ended and their group.

    The distributions are those of requests that ended well: a refusal's latency says nothing about a route.
    """
    gathered = defaultdict(list)
    for each in rows:
        group = Group(*(str(each[name]) for name in Group._fields))
        gathered[int(each["ended_at"] // SECONDS_PER_HOUR), group].append(each)
    return {key: _totals(key[1], members) for key, members in gathered.items()}


def _totals(group: Group, members: list[Mapping[str, Any]]) -> Totals:
    measured = members if group.outcome == Outcome.OK else []
    return Totals(
        requests=len(members),
        **{name: sum(int(member[name]) for member in members) for name in SUMS},
        distributions=Distributions.of({name: [member[name] for member in measured] for name in MEASURES}),
    )
