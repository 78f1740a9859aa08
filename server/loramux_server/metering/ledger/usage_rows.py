"""Converts charged requests to rows of usage_records, and rows to hourly totals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        "project": record.project,
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


TOTALED_COLUMNS = tuple(dict.fromkeys(("ended_at", *UsageGroup._fields, *SUMMED_COLUMNS, *MEASURES)))
"""The columns of usage_records that totals are made of."""


def totals_by_hour(columns: Mapping[str, Sequence[Any]]) -> dict[tuple[int, UsageGroup], HourTotals]:
    """Return the totals of rows of usage_records, by the hour in which they ended and their group.

    `columns` has TOTALED_COLUMNS of all rows: a range may start within an hour of a hundred thousand requests. The
    distributions are of successful requests only: the latency of a refusal says nothing about a route.
    """
    hours = (np.array(columns["ended_at"], float) // SECONDS_PER_HOUR).astype(np.int64).tolist()
    keys = list(zip(hours, *(columns[name] for name in UsageGroup._fields), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group_of_row = np.array([numbers[key] for key in keys], np.int64)
    sums = {name: _sums(group_of_row, columns[name], len(numbers)) for name in SUMMED_COLUMNS}
    requests = np.bincount(group_of_row, minlength=len(numbers)).tolist()
    distributions = _distributions(group_of_row, columns, len(numbers))
    return {
        (hour, UsageGroup(*map(str, group))): HourTotals(
            requests=requests[number],
            **{name: sums[name][number] for name in SUMMED_COLUMNS},
            distributions=distributions[number],
        )
        for (hour, *group), number in numbers.items()
    }


def _sums(group_of_row: NDArray[np.int64], values: Sequence[int], groups: int) -> list[int]:
    """Return the exact sum of each group."""
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group_of_row, np.array(values, np.int64))
    return sums.tolist()


def _distributions(
    group_of_row: NDArray[np.int64], columns: Mapping[str, Sequence[Any]], groups: int
) -> list[Distributions]:
    is_measured = np.array([outcome == Outcome.OK for outcome in columns["outcome"]], bool)
    values = {name: np.array(columns[name], float)[is_measured] for name in MEASURES}
    for name, unpriced in _UNPRICED.items():  # a cost that is unknown is not 0
        values[name][np.array(columns[unpriced], bool)[is_measured]] = np.nan
    return Distributions.grouped(group_of_row[is_measured], values, groups)
