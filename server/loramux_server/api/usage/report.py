"""What is asked of the ledger, and the report that answers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from loramux_server.api.usage.schemas import MODES, Engine, Group, Training, UsageReport
from loramux_server.metering.ledger.labels import LABELS, GroupBy, Label
from loramux_server.metering.ledger.reader import LedgerReader, Usage
from loramux_server.metering.ledger.time_range import Span, shown_moment
from loramux_server.metering.ledger.training_costs import TrainingBook
from loramux_server.metering.relative_to_base import Base

BASE = "base"
COMPARED_BY = (GroupBy.ROUTE, GroupBy.ADAPTER, GroupBy.VERSION)
"""Groups that are routes, and so can stand beside the base."""


class Order(StrEnum):
    """Which groups come first."""

    COST = "cost"
    REQUESTS = "requests"
    LABEL = "label"


class Bills(Protocol):
    """Knows what adapters have to earn."""

    def to_earn(self, adapter: str, mode: str) -> Decimal:
        """Nano-dollars that making the adapter and keeping it for a month cost, in one of MODES."""


class Upkeep(Protocol):
    """Keeps the bills."""

    def bills(self) -> Bills:
        """Read them: as slow as a database."""


@dataclass(frozen=True)
class Sources:
    """Where the answers are."""

    reader: LedgerReader
    training: TrainingBook
    upkeep: Upkeep


@dataclass(frozen=True)
class Question:
    """What is asked of the ledger."""

    span: Span
    by: GroupBy
    only: Mapping[str, str]
    order: Order
    limit: int


def report(sources: Sources, question: Question, price_version: str) -> UsageReport:
    """Read and compare: as slow as a database."""
    span, by, reader = question.span, question.by, sources.reader
    found = reader.usage(span, by, question.only)
    total = sum(found.values(), Usage())
    ordered = sorted(found, key=lambda label: _place(label, found[label], question.order))[: question.limit]
    # The one adapter that is asked for is compared with the base, too.
    alone = reader.usage(span, GroupBy.ROUTE, {"route": BASE}).get((BASE,)) if by in COMPARED_BY else None
    base, bills = Base(alone) if alone else None, sources.upkeep.bills()
    return UsageReport(
        since=shown_moment(span.since),
        until=shown_moment(span.until),
        group_by=by,
        groups=[_group(dict(zip(LABELS[by], label, strict=True)), found[label], base, bills) for label in ordered],
        count=len(found),
        total=Group.of({}, total) if found else None,
        engine=Engine.of(reader.engine_time(span)),
        training=Training.of(sources.training.total(span)),
        price_version=price_version,
    )


def _group(label: Mapping[str, str], usage: Usage, base: Base | None, bills: Bills) -> Group:
    group = Group.of(label, usage)
    if base is None or label["route"] != "adapter":
        return group
    adapter = label.get("adapter")
    to_earn = {mode: bills.to_earn(adapter, mode) if adapter else Decimal(0) for mode in MODES}
    return group.beside(base, usage, to_earn)


def _place(label: Label, usage: Usage, order: Order) -> tuple[int, Label]:
    match order:
        case Order.COST:
            return -usage.sums["gpu_hour_cost"] - usage.sums["price_list_cost"], label
        case Order.REQUESTS:
            return -usage.requests, label
        case Order.LABEL:
            return 0, label
