"""`/admin/usage`: requests, latency and cost of each route, and the last controlled result of each adapter.

`/v1/usage`: the same of the caller's project, without what concerns the whole server.
"""

import asyncio
import csv
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Response

from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin, Caller, visible_project
from loramux_server.api.usage.report import GroupOrder, UsageQuery, UsageSources, build_report
from loramux_server.api.usage.schemas import UsageReport
from loramux_server.errors import InvalidRequest
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.time_range import SECONDS_PER_DAY, TimeRange, parse_time
from loramux_server.metering.pricing import PriceSource

DEFAULT_SECONDS = float(SECONDS_PER_DAY)


class Format(StrEnum):
    """Format of the report."""

    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """The parameters of a request for a usage report."""

    group_by: GroupBy
    since: str | None
    until: str | None
    filters: Mapping[str, str]
    order: GroupOrder
    limit: int
    format: Format

    @classmethod
    async def read(
        cls,
        group_by: GroupBy = GroupBy.ADAPTER,
        since: Annotated[
            str | None, Query(description="Start: ISO 8601 or Unix seconds; by default one day before `until`.")
        ] = None,
        until: Annotated[str | None, Query(description="End, excluded: as `since`; by default now.")] = None,
        route: Annotated[
            Literal["base", "adapter", "none"] | None,
            Query(description="Only requests to the base, to adapters, or to neither."),
        ] = None,
        adapter: Annotated[str | None, Query(description="Only this adapter.")] = None,
        key: Annotated[str | None, Query(description="Only this API key.")] = None,
        order: Annotated[
            GroupOrder | None, Query(description="By default most expensive first; for days and hours by time.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        format_: Annotated[Format, Query(alias="format")] = Format.JSON,
    ) -> Self:
        """Read the query of a request."""
        filters = {"route": route, "adapter": adapter, "key_id": key}
        given = {name: value for name, value in filters.items() if value is not None}
        return cls(group_by, since, until, given, order or _default_order(group_by), limit, format_)


Asked = Annotated[UsageRequest, Depends(UsageRequest.read)]


def usage_router(sources: UsageSources, prices: PriceSource, record_seconds: float) -> APIRouter:
    """Return /admin/usage and /v1/usage; single records are kept for `record_seconds`."""
    router = APIRouter(tags=["usage"], responses=error_responses())

    async def answer(asked: UsageRequest, project: str | None) -> UsageReport | Response:
        now = time.time()
        time_range = _whole_hours_without_records(_time_range(asked.since, asked.until, now), now - record_seconds)
        # No request of the present hour ends later than now, so that its rollup can be read.
        read_range = time_range.rounded(until=time_range.until >= now)
        query = UsageQuery(time_range, read_range, asked.group_by, asked.filters, asked.order, asked.limit, project)
        report = await asyncio.to_thread(build_report, sources, query, prices.current)
        return report if asked.format is Format.JSON else _csv(report)

    @router.get("/admin/usage", response_model=UsageReport)
    async def show_usage(asked: Asked, _: Admin) -> UsageReport | Response:
        """Show requests by outcome, latency, tokens and cost, and the last controlled result of each adapter.

        A request is counted when it ends. Quantiles are accurate to 1 %. Of days whose single records are deleted, only
        whole hours are known: `since` and `until` of the response are the range that was counted. Routes are not
        compared with each other: live traffic is not an experiment.
        """
        return await answer(asked, None)

    @router.get("/v1/usage", response_model=UsageReport)
    async def show_own_usage(asked: Asked, by: Caller) -> UsageReport | Response:
        """Show the requests of the caller's project by outcome, latency, tokens and cost; see `/admin/usage`.

        The time of the engine and controlled results are of the whole server, and left out.
        """
        return await answer(asked, visible_project(by))

    return router


def _time_range(since: str | None, until: str | None, now: float) -> TimeRange:
    """Return the range that was asked for, which ends now at the latest; by default the last 24 hours."""
    end = min(now, _parse("until", until)) if until is not None else now
    start = _parse("since", since) if since is not None else end - DEFAULT_SECONDS
    if start >= end:
        raise InvalidRequest("`since` must be before `until`, and not in the future.", param="since")
    return TimeRange(start, end)


def _whole_hours_without_records(asked: TimeRange, oldest_record: float) -> TimeRange:
    """Extend the range to whole hours where there are no single records, but only rollups."""
    return asked.rounded(since=asked.since < oldest_record, until=asked.until < oldest_record)


def _parse(name: str, text: str) -> float:
    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"`{name}` must be ISO 8601, such as 2026-01-31T12:00, or Unix seconds.", param=name
        ) from error


def _default_order(by: GroupBy) -> GroupOrder:
    return GroupOrder.LABEL if by in (GroupBy.DAY, GroupBy.HOUR) else GroupOrder.COST


def _csv(report: UsageReport) -> Response:
    """Return the groups as CSV, one column per figure."""
    rows = [dict(_flatten(group.model_dump(mode="json"))) for group in report.groups]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return Response(text.getvalue(), media_type="text/csv")


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item
