"""The groups that usage is stored by, and the labels that it is reported by."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR


class UsageGroup(NamedTuple):
    """The group of a request in the hourly rollups; empty strings stand for missing values."""

    route: str
    adapter: str
    version: str
    key_id: str
    operation: str
    outcome: str
    project: str = DEFAULT_PROJECT


class GroupBy(StrEnum):
    """The dimensions that usage can be grouped by."""

    ROUTE = "route"
    ADAPTER = "adapter"
    VERSION = "version"
    KEY = "key"
    DAY = "day"
    HOUR = "hour"


Label = tuple[str, ...]
LABEL_COLUMNS: Mapping[GroupBy, tuple[str, ...]] = {
    GroupBy.ROUTE: ("route",),
    GroupBy.ADAPTER: ("route", "adapter"),
    GroupBy.VERSION: ("route", "adapter", "version"),
    GroupBy.KEY: ("key_id",),
    GroupBy.DAY: ("day",),
    GroupBy.HOUR: ("hour",),
}
"""The names of the values in a label."""


def label_function(by: GroupBy) -> Callable[[int, UsageGroup], Label]:
    """Return a function that maps an hour and a group to a label."""
    if by is GroupBy.HOUR:
        return lambda hour, _: (f"{_utc(hour):%Y-%m-%dT%H:00:00Z}",)
    if by is GroupBy.DAY:
        return lambda hour, _: (f"{_utc(hour):%Y-%m-%d}",)
    return lambda _, group: tuple(getattr(group, name) for name in LABEL_COLUMNS[by])


def _utc(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * SECONDS_PER_HOUR, UTC)
