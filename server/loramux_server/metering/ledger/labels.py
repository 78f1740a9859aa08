"""What requests are told apart by: when they are written, and when they are read."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from loramux_server.metering.ledger.time_range import SECONDS_PER_HOUR


class Group(NamedTuple):
    """What requests are told apart by; where one has none, it is an empty string."""

    route: str
    adapter: str
    version: str
    key_id: str
    operation: str
    outcome: str


class GroupBy(StrEnum):
    """What usage can be told apart by."""

    ROUTE = "route"
    ADAPTER = "adapter"
    VERSION = "version"
    KEY = "key"
    DAY = "day"
    HOUR = "hour"


Label = tuple[str, ...]
LABELS: Mapping[GroupBy, tuple[str, ...]] = {
    GroupBy.ROUTE: ("route",),
    GroupBy.ADAPTER: ("route", "adapter"),
    GroupBy.VERSION: ("route", "adapter", "version"),
    GroupBy.KEY: ("key_id",),
    GroupBy.DAY: ("day",),
    GroupBy.HOUR: ("hour",),
}
"""The names of what a label holds."""


def labelling(by: GroupBy) -> Callable[[int, Group], Label]:
    """Return what makes a label of an hour and a group."""
    if by is GroupBy.HOUR:
        return lambda hour, _: (f"{_utc(hour):%Y-%m-%dT%H:00:00Z}",)
    if by is GroupBy.DAY:
        return lambda hour, _: (f"{_utc(hour):%Y-%m-%d}",)
    return lambda _, group: tuple(getattr(group, name) for name in LABELS[by])


def _utc(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * SECONDS_PER_HOUR, UTC)
