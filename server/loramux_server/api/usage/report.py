"""Usage queries, and the report that is built from the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from loramux_server.api.usage.schemas import COST_MODES, Engine, Group, Training, UsageReport
from loramux_server.metering.fixed_costs import FixedCosts, FixedCostSource
from loramux_server.metering.ledger.labels import LABEL_COLUMNS, GroupBy, Label
from loramux_server.metering.ledger.reader import LedgerReader, UsageTotals
from loramux_server.metering.ledger.time_range import TimeRange, format_time
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.relative_to_base import BaseComparison

BASE = "base"
COMPARABLE = (GroupBy.ROUTE, GroupBy.ADAPTER, GroupBy.VERSION)
"""Groupings by route, whose groups can be compared with the base."""


class GroupOrder(StrEnum):
    """Order of the groups: highest cost, most requests, or by label."""

    COST = "cost"
    REQUESTS = "requests"
    LABEL = "label"


@dataclass(frozen=True)
class UsageSources:
    """Sources of a usage report."""

    ledger: LedgerReader
    training_costs: TrainingCosts
    fixed_costs: FixedCostSource


@dataclass(frozen=True)
class UsageQuery:
    """A time range, a grouping, and filters by label column."""

    time_range: TimeRange
    group_by: GroupBy
    filters: Mapping[str, str]
    order: GroupOrder
    limit: int


def build_report(sources: UsageSources, query: UsageQuery, price_version: str) -> UsageReport:
    """Read the ledger and compare each group with the base; blocks on the database."""
    time_range, by, ledger = query.time_range, query.group_by, sources.ledger
    groups = ledger.usage(time_range, by, query.filters)
    total = sum(groups.values(), UsageTotals())
    ordered = sorted(groups, key=lambda label: _sort_key(label, groups[label], query.order))[: query.limit]
    # Read on its own, because the filters may exclude the base.
    base_usage = ledger.usage(time_range, GroupBy.ROUTE, {"route": BASE}).get((BASE,)) if by in COMPARABLE else None
    base, fixed_costs = BaseComparison(base_usage) if base_usage else None, sources.fixed_costs.read()
    return UsageReport(
        since=format_time(time_range.since),
        until=format_time(time_range.until),
        group_by=by,
        groups=[
            _group(dict(zip(LABEL_COLUMNS[by], label, strict=True)), groups[label], base, fixed_costs)
            for label in ordered
        ],
        count=len(groups),
        total=Group.of({}, total) if groups else None,
        engine=Engine.of(ledger.engine_time(time_range)),
        training=Training.of(sources.training_costs.total(time_range)),
        price_version=price_version,
    )


def _group(label: Mapping[str, str], usage: UsageTotals, base: BaseComparison | None, fixed_costs: FixedCosts) -> Group:
    group = Group.of(label, usage)
    if base is None or label["route"] != "adapter":
        return group
    adapter = label.get("adapter")
    costs = {mode: fixed_costs.fixed_cost(adapter, mode) if adapter else Decimal(0) for mode in COST_MODES}
    return group.relative_to_base(base, usage, costs)


def _sort_key(label: Label, usage: UsageTotals, order: GroupOrder) -> tuple[int, Label]:
    match order:
        case GroupOrder.COST:
            return -usage.sums["gpu_hour_cost"] - usage.sums["price_list_cost"], label
        case GroupOrder.REQUESTS:
            return -usage.requests, label
        case GroupOrder.LABEL:
            return 0, label
