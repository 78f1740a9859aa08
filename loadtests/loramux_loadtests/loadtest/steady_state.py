"""Whether a server kept up with a load: answers keep pace with requests, and the requests in flight do not pile up.

The beginning of a load is left out, because an empty server answers faster than one in its steady state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from loramux_loadtests.loadtest.rows import RequestRow

MIN_ANSWERED_SHARE = 0.95
_GRID = 60
_CHANCE = 1.5
"""In standard deviations: by so much the requests in flight may differ between the thirds of a steady load."""
_CERTAIN = 3.0
"""In standard deviations: by so much they differ only if the server is overloaded."""
_MIN_ANSWERS = 30

Times = NDArray[np.float64]


@dataclass(frozen=True)
class SteadyState:
    """What happened from `begin` to `end`, in seconds of the load."""

    begin: float
    end: float
    sent: int
    answered: int
    """Answers that ended in this time, to requests of any time."""
    in_flight_first: float
    """Mean number of requests in flight in the first third of this time."""
    in_flight_last: float
    """The same in the last third."""

    @property
    def seconds(self) -> float:
        """The duration."""
        return max(self.end - self.begin, 1e-9)

    @property
    def answered_rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds

    @property
    def answered_share(self) -> float:
        """Answers as a share of the requests, at most 1."""
        return min(1.0, self.answered / self.sent) if self.sent else 1.0

    @property
    def problem(self) -> str | None:
        """Why the server did not keep up; None if it did."""
        # The first excess is what chance explains: it matters only for loads too short to tell.
        excess = max((1 - MIN_ANSWERED_SHARE) * self.sent, 2 * self._deviation)
        if self.sent - self.answered > excess:
            return (
                f"{self.answered_rate:.3g} requests/s were answered of {self.sent / self.seconds:.3g} sent: "
                f"{self._growth_text}"
            )
        allowed = max(2.0, self.in_flight_first / 4 + _CHANCE * sqrt(self.in_flight_first))
        return f"requests piled up: {self._growth_text}" if self._growth > allowed else None

    @property
    def is_overloaded(self) -> bool:
        """Whether more requests piled up than chance explains: the answered rate is then the server's capacity.

        Few answers do not tell: requests that began together end together.
        """
        return self.answered >= _MIN_ANSWERS and self._growth > _CERTAIN * self._deviation + 2

    @property
    def _growth(self) -> float:
        return self.in_flight_last - self.in_flight_first

    @property
    def _deviation(self) -> float:
        """The standard deviation of a difference of two numbers of requests in flight, if they arrive at random."""
        return sqrt(self.in_flight_first + self.in_flight_last)

    @property
    def _growth_text(self) -> str:
        return f"{self.in_flight_first:.3g} in flight at first, {self.in_flight_last:.3g} at the end"


def measure_steady_state(starts: Sequence[float], rows: Sequence[RequestRow], end: float) -> SteadyState:
    """Measure a load until `end`. `starts` are the times of all its requests, `rows` are those that have ended."""
    began = np.sort(np.asarray(starts, dtype=np.float64))
    ended = np.sort(np.asarray([row.last for row in rows], dtype=np.float64))
    answered = np.sort(np.asarray([row.last for row in rows if row.error is None], dtype=np.float64))
    begin = min(end / 2, 2 * usual_latency(rows, end))
    grid = np.linspace(begin, end, _GRID + 1)
    in_flight = _count_until(began, grid) - _count_until(ended, grid)
    third = _GRID // 3
    return SteadyState(
        begin=begin,
        end=end,
        sent=_count_between(began, begin, end),
        answered=_count_between(answered, begin, end),
        in_flight_first=float(in_flight[:third].mean()),
        in_flight_last=float(in_flight[-third:].mean()),
    )


def usual_latency(rows: Sequence[RequestRow], end: float, q: float = 0.75) -> float:
    """Return a quantile of the seconds from schedule to answer of those that ended before `end`; `end` without any."""
    latencies = [row.last - row.scheduled for row in rows if row.error is None and row.last < end]
    return float(np.quantile(latencies, q)) if latencies else end


def _count_until(times: Times, moments: Times) -> Times:
    return np.searchsorted(times, moments, side="right").astype(np.float64)


def _count_between(times: Times, begin: float, end: float) -> int:
    return int(np.searchsorted(times, end) - np.searchsorted(times, begin))
