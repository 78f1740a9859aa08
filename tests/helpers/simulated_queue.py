"""A server with a fixed number of slots, simulated request by request on a clock of its own."""

import heapq
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile

from numpy.random import Generator, default_rng

from loramux_loadtests.loadtest.goals import Goal, parse_goal
from loramux_loadtests.loadtest.rate_trial import RateTrial, RateWatch, judge_rate
from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.loadtest.sweep import RateSearch, measured_capacity
from tests.helpers.load_rows import row

Service = Callable[[Generator], float]


@dataclass
class SimulatedQueue:
    """Requests arrive at random, wait for one of `slots`, and take `service` seconds (first come, first served)."""

    slots: int
    service: Service
    seed: int = 0
    _runs: int = field(default=0, init=False)

    def rows(self, rate: float, seconds: float) -> list[RequestRow]:
        """Return the requests of a load, in the order of their arrival."""
        rng = default_rng([self.seed, self._runs])
        self._runs += 1
        free, at = [0.0] * self.slots, float(rng.exponential(1 / rate))
        found: list[RequestRow] = []
        while at < seconds:
            began = max(at, heapq.heappop(free))
            ended = began + self.service(rng)
            heapq.heappush(free, ended)
            found.append(replace(row(number=len(found)), scheduled=at, sent=at, first=began, last=ended))
            at += float(rng.exponential(1 / rate))
        return found


@dataclass
class SimulatedTrials:
    """Runs rates on a queue; `seconds` is how long all of them took on the queue's clock."""

    queue: SimulatedQueue
    goal: Goal = field(default_factory=lambda: parse_goal("errors<0.01"))
    min_seconds: float = 30.0
    max_seconds: float = 300.0
    seconds: float = 0.0

    def search(self, precision: float = 0.1) -> RateSearch:
        trials: list[RateTrial] = []

        async def run(rate: float, seconds: float) -> RateTrial:
            return self._run(rate, seconds, measured_capacity(trials))

        return RateSearch(run, precision, trials)

    def _run(self, rate: float, seconds: float, capacity: float | None) -> RateTrial:
        min_seconds = max(self.min_seconds, seconds)
        watch = RateWatch(rate, self.goal, min_seconds, max(self.max_seconds, min_seconds), capacity)
        rows = self.queue.rows(rate, watch.max_seconds)
        by_end = sorted(rows, key=lambda one: one.last)
        ends = [one.last for one in by_end]

        def goes_on(one: RequestRow) -> bool:
            return not watch.is_enough(one.scheduled, by_end[: bisect_right(ends, one.scheduled)])

        sent = list(takewhile(goes_on, rows))
        end = watch.ended_at or sent[-1].scheduled
        self.seconds += end
        return judge_rate(rate, self.goal, sent, end)
