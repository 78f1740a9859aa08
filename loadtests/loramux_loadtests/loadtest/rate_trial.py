"""One rate of a sweep: how long it has to run to be judged, and whether the server holds it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from loramux_loadtests.loadtest.goals import Goal, required_requests
from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.loadtest.steady_state import SteadyState, measure_steady_state, usual_latency
from loramux_loadtests.loadtest.summary import without_warm_up

MIN_REQUESTS = 80
MIN_LATENCIES = 5
"""A rate runs at least this many times as long as its slow requests take."""
_MAX_NOISE = 0.02
"""A rate runs until chance changes the share of answered requests by less than this."""
_CHECKS_PER_RUN = 0.05
"""Between two checks a run gets longer by this share."""


@dataclass(frozen=True)
class RateTrial:
    """The outcome of one rate."""

    rate: float
    """Requests per second that were planned."""
    state: SteadyState
    reasons: Sequence[str]
    """Why the server does not hold this rate; empty if it does."""
    is_conclusive: bool = True
    """False if the run ended with too few requests to judge the goal."""

    @property
    def met(self) -> bool:
        """Whether the goal was met, and the server kept up."""
        return not self.reasons

    @property
    def held_rate(self) -> float:
        """The rate, or less if by chance fewer requests were sent, or if not all were answered in the meantime."""
        return min(self.rate, self.state.sent / self.state.seconds) * self.state.answered_share


def judge_rate(rate: float, goal: Goal, rows: Sequence[RequestRow], end: float) -> RateTrial:
    """Judge a load until `end`, when it stopped sending requests; all of its requests have a row."""
    state = measure_steady_state([row.scheduled for row in rows], rows, end)
    steady = [row for row in rows if row.scheduled >= state.begin]
    reasons = [*([state.problem] if state.problem else []), *goal.missed_terms(steady)]
    needed = max(MIN_REQUESTS, required_requests(goal))
    is_conclusive = bool(reasons) or len(steady) >= needed
    if not is_conclusive:
        reasons.append(f"{len(steady)} requests are too few to judge {goal}: {needed} are needed")
    return RateTrial(rate, state, reasons, is_conclusive)


@dataclass
class RateWatch:
    """Decides while a rate runs whether it has run long enough; called with each request that is about to be sent."""

    rate: float
    goal: Goal
    min_seconds: float
    max_seconds: float
    capacity: float | None = None
    """Requests per second that the server answered when it was overloaded; None if it was not yet."""
    judged_seconds: float = 0.0
    """A rate is met for at least this time: without the beginning, which is not judged."""
    starts: list[float] = field(default_factory=list)
    ended_at: float | None = None
    """When it stopped the load, in seconds of the load."""
    _next_check: float = 0.0

    def is_enough(self, now: float, rows: Sequence[RequestRow]) -> bool:
        """Whether to stop before the request that is due at `now`; `rows` are all that have ended."""
        if now >= self.max_seconds or (now >= max(self.min_seconds, self._next_check) and self._can_judge(now, rows)):
            self.ended_at = now
        else:
            self.starts.append(now)
        return self.ended_at is not None

    def _can_judge(self, now: float, rows: Sequence[RequestRow]) -> bool:
        self._next_check = now * (1 + _CHECKS_PER_RUN)
        rows = without_warm_up(rows)
        state = measure_steady_state(self.starts, rows, now)
        if state.problem:
            # A crowd may be chance, which passes; an overload does not.
            return state.is_overloaded or (self.capacity is not None and self.rate > 1.02 * self.capacity)
        in_flight = len(self.starts) - len(rows)
        return (
            state.seconds >= self.judged_seconds
            and state.sent >= max(MIN_REQUESTS, required_requests(self.goal)) * 1.05  # the window may still move
            and now >= MIN_LATENCIES * usual_latency(rows, now, 0.95)
            and sqrt(2 * in_flight) <= _MAX_NOISE * len(self.starts)
        )
