"""Time ranges, their whole hours, and parsing and formatting of times."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, isfinite

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class TimeRange:
    """A half-open range of Unix seconds: `since` <= t < `until`."""

    since: float
    until: float

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
    if not isfinite(seconds):
        raise ValueError(f"{text!r} is not a finite time")
    return seconds


def format_time(seconds: float) -> str:
    """Format Unix seconds as ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
