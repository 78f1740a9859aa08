"""Counts the requests of each version for the adapters' list, from the records that the ledger and /metrics count."""

from collections.abc import Callable

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.metering.usage_record import Route, UsageRecord


class UseCounts:
    """A Meter that calls `count_use` for each ended request of a version, whatever its outcome."""

    def __init__(self, count_use: Callable[[VersionId], None]) -> None:
        self._count_use = count_use

    def begin(self, route: Route) -> None:
        """Do nothing: a request counts when it has ended."""

    def record(self, record: UsageRecord) -> None:
        """Count an ended request."""
        route = record.route
        if route and route.adapter and route.version:
            self._count_use(VersionId(AdapterName(route.adapter), Digest(route.version)))
