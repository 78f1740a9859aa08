"""Usage queries, and the report that is built from the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loramux_adapters.models import VersionId
from loramux_server.api.usage.controlled_schemas import Controlled
from loramux_server.api.usage.schemas import Engine, Group, Training, UsageReport
from loramux_server.controlled_results.break_even import break_even
from loramux_server.controlled_results.models import ControlledResult, ControlledResultSource, latest_results
from loramux_server.metering.fixed_costs import FixedCosts, FixedCostSource
from loramux_server.metering.ledger.labels import LABEL_COLUMNS, GroupBy, Label
from loramux_server.metering.ledger.reader import LedgerReader, UsageTotals
from loramux_server.metering.ledger.time_range import TimeRange, format_time
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.pricing import Prices


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
    targets: Callable[[str], Sequence[VersionId]]
    """Returns the versions that an adapter's name points at."""
    controlled: Sequence[ControlledResultSource]


@dataclass(frozen=True)
class UsageQuery:
    """A time range, a grouping, and filters by label column.

    `read_range` is what is read from the ledger: the same requests, in more of the hours for which there are rollups.
    """

    time_range: TimeRange
    read_range: TimeRange
    group_by: GroupBy
    filters: Mapping[str, str]
    order: GroupOrder
    limit: int
    project: str | None = None
    """Only the usage of this project, without what concerns the whole server; None: all."""

    @property
    def conditions(self) -> Mapping[str, str]:
        """The values that columns of the ledger must have."""
        return self.filters if self.project is None else {**self.filters, "project": self.project}


def build_report(sources: UsageSources, query: UsageQuery, prices: Prices) -> UsageReport:
    """Read the ledger, and the last controlled result of each adapter; blocks on the database."""
    by, ledger = query.group_by, sources.ledger
    is_whole = query.project is None
    groups = ledger.usage(query.read_range, by, query.conditions)
    total = sum(groups.values(), UsageTotals())
    ordered = sorted(groups, key=lambda label: _sort_key(label, groups[label], query.order))[: query.limit]
    labels = {label: dict(zip(LABEL_COLUMNS[by], label, strict=True)) for label in ordered}
    shows_controlled = is_whole and by in (GroupBy.ADAPTER, GroupBy.VERSION)
    controlled = _ControlledResults.read(sources, prices) if shows_controlled else None
    return UsageReport(
        since=format_time(query.time_range.since),
        until=format_time(query.time_range.until),
        group_by=by,
        groups=[
            Group.of(labels[label], groups[label], controlled.of(labels[label]) if controlled else None)
            for label in ordered
        ],
        count=len(groups),
        total=Group.of({}, total) if groups else None,
        engine=(
            Engine.of(ledger.engine_time(query.time_range), has_price=prices.has_gpu_hour_price) if is_whole else None
        ),
        training=Training.of(sources.training_costs.total(query.time_range, query.project)),
        price_version=prices.version,
        prices_set={"price_list": prices.has_token_prices, "gpu_hour": prices.has_gpu_hour_price},
    )


@dataclass(frozen=True)
class _ControlledResults:
    results: Mapping[str, ControlledResult]
    fixed_costs: FixedCosts
    prices: Prices
    targets: Callable[[str], Sequence[VersionId]]

    @classmethod
    def read(cls, sources: UsageSources, prices: Prices) -> "_ControlledResults":
        return cls(latest_results(sources.controlled), sources.fixed_costs.read(), prices, sources.targets)

    def of(self, label: Mapping[str, str]) -> Controlled | None:
        """Return the result of the label's adapter, and for a version only if that was measured."""
        adapter, version = label["adapter"], label.get("version")
        result = self.results.get(adapter)
        if result is None or (version is not None and result.version != f"{adapter}@{version}"):
            return None
        found = break_even(result, self.prices, self.fixed_costs.fixed_cost(adapter, "price_list"))
        is_current = [str(target) for target in self.targets(adapter)] == [result.version]
        return Controlled.of(result, found, is_current=is_current)


def _sort_key(label: Label, usage: UsageTotals, order: GroupOrder) -> tuple[int, Label]:
    match order:
        case GroupOrder.COST:
            return -usage.sums["gpu_hour_cost"] - usage.sums["price_list_cost"], label
        case GroupOrder.REQUESTS:
            return -usage.requests, label
        case GroupOrder.LABEL:
            return 0, label
