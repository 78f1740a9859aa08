"""`/admin/usage`: what each route did and cost, beside the base."""

import asyncio
import csv
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Response

from loramux_server.api.authority import Admin
from loramux_server.api.problems import problems
from loramux_server.api.usage_views import Engine, Group, UsageReport
from loramux_server.errors import InvalidRequest
from loramux_server.metering.ledger.reader import LABELS, GroupBy, Label, LedgerReader, Usage
from loramux_server.metering.ledger.spans import SECONDS_PER_HOUR, Span, parse_moment, shown_moment

DEFAULT_SECONDS = 86_400.0
BASE = "base"
COMPARED_BY = (GroupBy.ROUTE, GroupBy.ADAPTER, GroupBy.VERSION)
"""Groups that are routes, and so can stand beside the base."""


class Order(StrEnum):
    """Which groups come first."""

    COST = "cost"
    REQUESTS = "requests"
    LABEL = "label"


class Format(StrEnum):
    """How the answer is written."""

    JSON = "json"
    CSV = "csv"


class Upkeep(Protocol):
    """Knows what an adapter has to earn."""

    def to_earn(self, adapter: str) -> Decimal:
        """Nano-dollars that making the adapter and keeping it for a month cost."""


def usage_router(reader: LedgerReader, upkeep: Upkeep, price_version: str) -> APIRouter:
    """Return /admin/usage."""
    router = APIRouter(prefix="/admin", tags=["usage"], responses=problems())

    @router.get("/usage", response_model=UsageReport)
    async def show_usage(
        _: Admin,
        group_by: GroupBy = GroupBy.ADAPTER,
        since: Annotated[
            str | None, Query(description="ISO 8601 or Unix seconds; a day before `until` if left out.")
        ] = None,
        until: Annotated[str | None, Query(description="As `since`, and not counted itself; now, if left out.")] = None,
        adapter: Annotated[str | None, Query(description="Of this adapter only.")] = None,
        key: Annotated[str | None, Query(description="Of this key only.")] = None,
        order: Annotated[Order | None, Query(description="The dearest first; for days and hours the earliest.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        format_: Annotated[Format, Query(alias="format")] = Format.JSON,
    ) -> UsageReport | Response:
        """Show what requests did and cost: how they ended, latency, tokens, cost, and all of it beside the base.

        A request counts when it ends. Quantiles are right to 1 %.
        """
        span = _span(since, until, time.time())
        only = {name: value for name, value in {"adapter": adapter, "key_id": key}.items() if value is not None}
        question = Question(span, group_by, only, order or _usual(group_by), limit)
        report = await asyncio.to_thread(_report, reader, upkeep, question, price_version)
        return report if format_ is Format.JSON else _csv(report)

    return router


def _span(since: str | None, until: str | None, now: float) -> Span:
    """What is asked about; the hour that has begun counts as a whole if nothing of it can be later than asked for."""
    end = _moment("until", until) if until is not None else now
    start = _moment("since", since) if since is not None else end - DEFAULT_SECONDS
    if end >= now:
        end = (now // SECONDS_PER_HOUR + 1) * SECONDS_PER_HOUR
    if start >= end:
        raise InvalidRequest("`since` must lie before `until`.", param="since")
    return Span(start, end)


def _moment(name: str, text: str) -> float:
    try:
        return parse_moment(text)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"`{name}` must be ISO 8601, such as 2026-01-31T12:00, or Unix seconds.", param=name
        ) from error


def _usual(by: GroupBy) -> Order:
    return Order.LABEL if by in (GroupBy.DAY, GroupBy.HOUR) else Order.COST


@dataclass(frozen=True)
class Question:
    """What is asked of the ledger."""

    span: Span
    by: GroupBy
    only: Mapping[str, str]
    order: Order
    limit: int


def _report(reader: LedgerReader, upkeep: Upkeep, question: Question, price_version: str) -> UsageReport:
    """Read and compare: as slow as a database."""
    span, by = question.span, question.by
    found = reader.usage(span, by, question.only)
    total = sum(found.values(), Usage())
    ordered = sorted(found, key=lambda label: _place(label, found[label], question.order))[: question.limit]
    # The one adapter that is asked for is compared with the base, too.
    base = reader.usage(span, GroupBy.ROUTE, {"route": BASE}).get((BASE,)) if by in COMPARED_BY else None
    return UsageReport(
        since=shown_moment(span.since),
        until=shown_moment(span.until),
        group_by=by,
        groups=[_group(dict(zip(LABELS[by], label, strict=True)), found[label], base, upkeep) for label in ordered],
        count=len(found),
        total=Group.of({}, total) if found else None,
        engine=Engine.of(reader.engine_time(span)),
        price_version=price_version,
    )


def _group(label: Mapping[str, str], usage: Usage, base: Usage | None, upkeep: Upkeep) -> Group:
    group = Group.of(label, usage)
    if base is None or label["route"] != "adapter":
        return group
    return group.beside(base, usage, upkeep.to_earn(label["adapter"]) if "adapter" in label else Decimal(0))


def _place(label: Label, usage: Usage, order: Order) -> tuple[int, Label]:
    match order:
        case Order.COST:
            return -usage.sums["gpu_hour_cost"] - usage.sums["price_list_cost"], label
        case Order.REQUESTS:
            return -usage.requests, label
        case Order.LABEL:
            return 0, label


def _csv(report: UsageReport) -> Response:
    """The groups as a table, with a column for each figure."""
    rows = [dict(_flat(group.model_dump(mode="json"))) for group in report.groups]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return Response(text.getvalue(), media_type="text/csv")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item
