"""`/admin/usage`: what each route did and cost, beside the base."""

import asyncio
import csv
import io
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from loramux_server.api.error_schemas import problems
from loramux_server.api.permissions import Admin
from loramux_server.api.usage.report import Order, Question, Sources, report
from loramux_server.api.usage.schemas import UsageReport
from loramux_server.errors import InvalidRequest
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR, Span, parse_moment

DEFAULT_SECONDS = 86_400.0


class Format(StrEnum):
    """How the answer is written."""

    JSON = "json"
    CSV = "csv"


def usage_router(sources: Sources, price_version: str) -> APIRouter:
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
        route: Annotated[
            Literal["base", "adapter", "none"] | None, Query(description="Of the base, of adapters, or of neither.")
        ] = None,
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
        asked = {"route": route, "adapter": adapter, "key_id": key}
        only = {name: value for name, value in asked.items() if value is not None}
        question = Question(span, group_by, only, order or _usual(group_by), limit)
        found = await asyncio.to_thread(report, sources, question, price_version)
        return found if format_ is Format.JSON else _csv(found)

    return router


def _span(since: str | None, until: str | None, now: float) -> Span:
    """What is asked about: whole hours where nothing else was said, because those are quickly told."""
    end = _moment("until", until) if until is not None else now
    if end >= now:  # nothing of this hour can be later than asked for
        end = (now // SECONDS_PER_HOUR + 1) * SECONDS_PER_HOUR
    start = _moment("since", since) if since is not None else (end - DEFAULT_SECONDS)
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
