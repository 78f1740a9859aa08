"""Rows summed up: by route, over time, and how far the client itself can be trusted."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramux_adapters.evaluation.statistics import Interval, quantile, quantile_interval
from loramux_loadtests.loadtest.goals import Goal
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.prices import PriceList
from loramux_loadtests.loadtest.rows import MEASURES, Row, measured

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LATE_S = 0.02
"""A client that sends 1 % of its requests later than this is itself what is measured."""
BUSY = 0.85
"""Of one core: a client that computes so much makes pieces wait."""


@dataclass(frozen=True)
class Summary:
    """What the rows of one route, or of several together, come to. Rates are per second of the load."""

    requests: int
    completed: int
    errors: Mapping[str, int]
    seconds: float
    good: int | None
    """Requests that met the goal; None without a goal."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    shorter: int
    """Answers with fewer tokens than were asked for, where their lengths were to be fixed."""
    times: Mapping[str, Mapping[str, Interval]]
    """For each of MEASURES that was measured, its QUANTILES in seconds."""
    means: Mapping[str, float]
    usd: float | None
    """What they cost by a price list; None without one."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.completed / self.seconds

    @property
    def goodput(self) -> float | None:
        """Answers a second that met the goal."""
        return None if self.good is None else self.good / self.seconds

    @property
    def output_rate(self) -> float:
        """Output tokens a second."""
        return self.output_tokens / self.seconds

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return self.requests - self.completed


@dataclass(frozen=True)
class Conditions:
    """What a summary needs besides the rows."""

    goal: Goal | None = None
    prices: PriceList | None = None
    fixed_lengths: bool = True


@dataclass(frozen=True)
class Window:
    """A piece of the load, by the moments for which its requests were scheduled."""

    begin: float
    requests: int
    errors: int
    ttft: float | None
    """Median seconds, from the sent moment."""
    tpot: float | None


@dataclass(frozen=True)
class ClientHealth:
    """How late the client sent, in seconds, and how much of one core it used."""

    lag_p50: float
    lag_p99: float
    lag_max: float
    busy: float | None

    @property
    def warning(self) -> str | None:
        """Why the figures may be the client's rather than the server's."""
        if self.lag_p99 > LATE_S:
            return f"the client sent 1 % of its requests more than {self.lag_p99 * 1000:.0f} ms late"
        if self.busy is not None and self.busy > BUSY:
            return f"the client used {self.busy:.0%} of a core, so pieces may have waited for it"
        return None


def of_load(rows: Sequence[Row]) -> list[Row]:
    """The rows that count: those that are not of the warm-up."""
    return [row for row in rows if row.phase == "load"]


def seconds_of(rows: Sequence[Row]) -> float:
    """How long the load lasted: from its beginning until its last answer, or its last request if that came later.

    How long failed requests were waited for, such as abandoned ones, does not tell how fast the others were answered.
    """
    ends = (row.last if row.error is None else row.scheduled for row in rows)
    return max(ends, default=0.0) or 1e-9


def summarize(rows: Sequence[Row], seconds: float, conditions: Conditions) -> Summary:
    """Sum rows up that were part of a load of `seconds`."""
    answered = [row for row in rows if row.error is None]
    goal, prices = conditions.goal, conditions.prices
    samples = {measure: values for measure in MEASURES if (values := measured(answered, measure))}
    return Summary(
        requests=len(rows),
        completed=len(answered),
        errors=dict(Counter(row.error for row in rows if row.error is not None).most_common()),
        seconds=seconds,
        good=None if goal is None else sum(map(goal.met_by, answered)),
        input_tokens=sum(row.input_tokens for row in answered),
        cached_tokens=sum(row.cached_tokens for row in answered),
        output_tokens=sum(row.output_tokens for row in answered),
        shorter=sum(row.output_tokens < row.wanted_tokens for row in answered) if conditions.fixed_lengths else 0,
        times={
            measure: {name: quantile_interval(values, q) for name, q in QUANTILES.items()}
            for measure, values in samples.items()
        },
        means={measure: math.fsum(values) / len(values) for measure, values in samples.items()},
        usd=None if prices is None else prices.usd(rows),
    )


def by_group(
    rows: Sequence[Row], conditions: Conditions, job_ran: tuple[float, float] | None = None
) -> dict[str, Summary]:
    """Summaries of all rows, of those of the adapters together where there are several, and of cold and warm ones.

    With a fine-tuning job, also of those that were scheduled before it ran and while it ran.
    """
    adapters = [row for row in rows if row.route != BASE]
    cold = [row for row in adapters if row.cold]
    groups = {"all": list(rows)}
    if len({row.route for row in adapters}) > 1:
        groups["all adapters"] = adapters
    if cold and len(cold) < len(adapters):
        groups |= {"adapters, cold": cold, "adapters, warm": [row for row in adapters if not row.cold]}
    seconds = seconds_of(rows)
    found = {name: summarize(of_group, seconds, conditions) for name, of_group in groups.items()}
    if job_ran and 0 < job_ran[0] < seconds:
        since, until = job_ran[0], min(job_ran[1], seconds)
        before = [row for row in rows if row.scheduled < since]
        beside = [row for row in rows if since <= row.scheduled < until]
        found["before the job"] = summarize(before, since, conditions)
        found["beside the job"] = summarize(beside, until - since, conditions)
    return found


def by_route(rows: Sequence[Row], conditions: Conditions) -> dict[str, Summary]:
    """A summary of each route: the base first, then as they were asked for."""
    seconds = seconds_of(rows)
    grouped: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        grouped.setdefault(row.route, []).append(row)
    names = sorted(grouped, key=lambda name: name != BASE)
    return {name: summarize(grouped[name], seconds, conditions) for name in names}


def windows(rows: Sequence[Row], length: float) -> list[Window]:
    """The load in pieces of `length` seconds; the last one may be shorter."""
    pieces: dict[int, list[Row]] = {}
    for row in rows:
        pieces.setdefault(int(row.scheduled // length), []).append(row)
    return [_window(number * length, pieces[number]) for number in sorted(pieces)]


def drift(pieces: Sequence[Window]) -> float | None:
    """The median TTFT of the last piece over that of the first; None with fewer than two that have one.

    The last piece is left out if it has less than half the first one's requests.
    """
    whole = [piece for piece in pieces if piece.ttft is not None and piece.requests * 2 >= pieces[0].requests]
    if len(whole) < 2 or not whole[0].ttft or whole[-1].ttft is None:
        return None
    return whole[-1].ttft / whole[0].ttft


def client_health(rows: Sequence[Row], busy: float | None) -> ClientHealth:
    """How the client did; ValueError without rows."""
    lags = [max(0.0, row.lag) for row in rows]
    return ClientHealth(quantile(lags, 0.5), quantile(lags, 0.99), max(lags), busy)


def _window(begin: float, rows: Sequence[Row]) -> Window:
    ttfts, tpots = measured(rows, "ttft"), measured(rows, "tpot")
    return Window(
        begin=begin,
        requests=len(rows),
        errors=sum(row.error is not None for row in rows),
        ttft=quantile(ttfts, 0.5) if ttfts else None,
        tpot=quantile(tpots, 0.5) if tpots else None,
    )
