"""Ranges of time, and which part of one is made of whole hours."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, isfinite

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Span:
    """A range of time in Unix seconds, from `since` up to but without `until`."""

    since: float
    until: float

    @property
    def hours(self) -> range:
        """The hours since 1970 that lie in it as a whole."""
        return range(ceil(self.since / SECONDS_PER_HOUR), int(self.until // SECONDS_PER_HOUR))

    @property
    def edges(self) -> "tuple[Span, ...]":
        """What its whole hours leave over: nothing, one end or two, or all of it."""
        if not self.hours:
            return (self,)
        first, last = (hour * SECONDS_PER_HOUR for hour in (self.hours.start, self.hours.stop))
        return tuple(end for end in (Span(self.since, first), Span(last, self.until)) if end.since < end.until)


def parse_moment(text: str) -> float:
    """Return the Unix seconds of an ISO 8601 moment (UTC, where it says no zone) or of a number; raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isfinite(seconds):
        raise ValueError(f"{text!r} is no moment")
    return seconds


def shown_moment(seconds: float) -> str:
    """Return the moment as ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
