"""Time ranges, their whole hours, and parsing and formatting of times."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 86_400
MAX_SECONDS = 1e10
"""Bound of the Unix seconds that are read from outside: others can't be formatted."""


@dataclass(frozen=True)
class TimeRange:
    """A half-open range of Unix seconds: `since` <= t < `until`."""

    since: float
    until: float

    def rounded(self, *, since: bool = False, until: bool = False) -> "TimeRange":
        """Return the range with its start, its end or both moved outwards to a whole hour."""
        return TimeRange(
            self.since // SECONDS_PER_HOUR * SECONDS_PER_HOUR if since else self.since,
            ceil(self.until / SECONDS_PER_HOUR) * SECONDS_PER_HOUR if until else self.until,
        )

    @property
    def hours(self) -> range:
        """The whole hours in the range, counted since 1970."""
        return range(ceil(self.since / SECONDS_PER_HOUR), int(self.until // SECONDS_PER_HOUR))

    @property
    def edges(self) -> "tuple[TimeRange, ...]":
        """The parts of the range outside its whole hours: up to two, or the whole range."""
        if not self.hours:
            return (self,)
        first, last = (hour * SECONDS_PER_HOUR for hour in (self.hours.start, self.hours.stop))
        edges = (TimeRange(self.since, first), TimeRange(last, self.until))
        return tuple(edge for edge in edges if edge.since < edge.until)


def parse_time(text: str) -> float:
    """Return the Unix seconds of an ISO 8601 time (UTC by default) or of a number.

    Raises:
        ValueError: the text is neither.
    """
    try:
        seconds = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not a time between the years 1653 and 2286")
    return seconds


def format_time(seconds: float) -> str:
    """Format Unix seconds as ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
