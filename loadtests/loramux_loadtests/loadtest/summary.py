"""Summaries of rows: by route, over time, and of the client itself."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramux_adapters.evaluation.statistics import Interval, quantile, quantile_interval
from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.goals import Goal
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.prices import load_usd
from loramux_loadtests.loadtest.rows import MEASURES, RequestRow, measured_seconds

BEFORE_JOB, DURING_JOB = "before the job", "during the job"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
MAX_LAG_S = 0.02
"""If the client sends 1 % of its requests later than this, the results measure the client."""
MAX_CLIENT_CPU = 0.85
"""Share of one core: above this, chunks wait for the client."""


@dataclass(frozen=True)
class GroupSummary:
    """Summary of the rows of one or several routes. Rates are per second of the load, or of a part of it."""

    requests: int
    completed: int
    answered_in_time: int
    """Answers that ended within `seconds`: in a part of a load, others end than those of its requests."""
    output_tokens_in_time: int
    """Output tokens of these answers."""
    errors: Mapping[str, int]
    seconds: float
    good: int | None
    """Requests that met the goal; None without a goal."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    shorter: int
    """Answers with fewer tokens than requested, where lengths are fixed."""
    times: Mapping[str, Mapping[str, Interval]]
    """QUANTILES in seconds of each of MEASURES that was measured."""
    means: Mapping[str, float]
    usd: float | None
    """Cost of the tokens; None without a price list."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered_in_time / self.seconds

    @property
    def goodput(self) -> float | None:
        """Answers per second that met the goal."""
        return None if self.good is None else self.good / self.seconds

    @property
    def output_rate(self) -> float:
        """Output tokens per second."""
        return self.output_tokens_in_time / self.seconds

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return self.requests - self.completed


@dataclass(frozen=True)
class SummaryOptions:
    """Goal, prices and whether answer lengths are fixed."""

    goal: Goal | None = None
    prices: PriceList | None = None
    fixed_lengths: bool = True


@dataclass(frozen=True)
class TimeWindow:
    """A part of the load, by the scheduled times of its requests."""

    begin: float
    requests: int
    errors: int
    ttft: float | None
    """Median in seconds, from sending."""
    tpot: float | None


@dataclass(frozen=True)
class ClientHealth:
    """How late the client sent requests, in seconds, and the share of one core that it used."""

    lag_p50: float
    lag_p99: float
    lag_max: float
    busy: float | None

    @property
    def warning(self) -> str | None:
        """Why the results may show the client rather than the server."""
        if self.lag_p99 > MAX_LAG_S:
            return f"the client sent 1 % of its requests more than {self.lag_p99 * 1000:.0f} ms late"
        if self.busy is not None and self.busy > MAX_CLIENT_CPU:
            return f"the client used {self.busy:.0%} of a core, so chunks may have waited for it"
        return None


def without_warm_up(rows: Sequence[RequestRow]) -> list[RequestRow]:
    """Return the rows of the load."""
    return [row for row in rows if row.phase == "load"]


def load_seconds(rows: Sequence[RequestRow]) -> float:
    """Return the duration of the load: until its last answer, or its last request if that was later.

    The time spent waiting for failed requests does not count.
    """
    ends = (row.last if row.error is None else row.scheduled for row in rows)
    return max(ends, default=0.0) or 1e-9


def summarize_rows(
    rows: Sequence[RequestRow],
    seconds: float,
    options: SummaryOptions,
    answered_in_time: Sequence[RequestRow] | None = None,
) -> GroupSummary:
    """Summarize rows of a load that lasted `seconds`; `answered_in_time` if other answers ended in this time."""
    answered = [row for row in rows if row.error is None]
    in_time = answered if answered_in_time is None else answered_in_time
    goal, prices = options.goal, options.prices
    samples = {measure: values for measure in MEASURES if (values := measured_seconds(answered, measure))}
    return GroupSummary(
        requests=len(rows),
        completed=len(answered),
        answered_in_time=len(in_time),
        output_tokens_in_time=sum(row.output_tokens for row in in_time),
        errors=dict(Counter(row.error for row in rows if row.error is not None).most_common()),
        seconds=seconds,
        good=None if goal is None else sum(map(goal.met_by, answered)),
        input_tokens=sum(row.input_tokens for row in answered),
        cached_tokens=sum(row.cached_tokens for row in answered),
        output_tokens=sum(row.output_tokens for row in answered),
        shorter=sum(row.output_tokens < row.wanted_tokens for row in answered) if options.fixed_lengths else 0,
        times={
            measure: {name: quantile_interval(values, q) for name, q in QUANTILES.items()}
            for measure, values in samples.items()
        },
        means={measure: math.fsum(values) / len(values) for measure, values in samples.items()},
        usd=None if prices is None else load_usd(prices, rows),
    )


def summarize_groups(
    rows: Sequence[RequestRow], options: SummaryOptions, job_ran: tuple[float, float] | None = None
) -> dict[str, GroupSummary]:
    """Summarize all rows, those of all adapters if there are several, and those of cold and of warm adapters.

    With a fine-tuning job, also the rows scheduled before the job and during it.
    """
    adapters = [row for row in rows if row.route != BASE]
    cold = [row for row in adapters if row.cold]
    groups = {"all": list(rows)}
    if len({row.route for row in adapters}) > 1:
        groups["all adapters"] = adapters
    if cold and len(cold) < len(adapters):
        groups |= {"adapters, cold": cold, "adapters, warm": [row for row in adapters if not row.cold]}
    seconds = load_seconds(rows)
    found = {name: summarize_rows(of_group, seconds, options) for name, of_group in groups.items()}
    if job_ran and 0 < job_ran[0] < seconds:
        since, until = job_ran[0], min(job_ran[1], seconds)
        found[BEFORE_JOB] = _summarize_part(rows, 0.0, since, options)
        found[DURING_JOB] = _summarize_part(rows, since, until, options)
    return found


def _summarize_part(rows: Sequence[RequestRow], begin: float, end: float, options: SummaryOptions) -> GroupSummary:
    """Summarize the requests that were scheduled in a part of the load; the rate counts the answers in this time."""
    scheduled = [row for row in rows if begin <= row.scheduled < end]
    answered = [row for row in rows if row.error is None and begin <= row.last < end]
    return summarize_rows(scheduled, end - begin, options, answered)


def summarize_routes(rows: Sequence[RequestRow], options: SummaryOptions) -> dict[str, GroupSummary]:
    """Summarize each route: the base first, the others in the order of their first requests."""
    seconds = load_seconds(rows)
    grouped: dict[str, list[RequestRow]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        grouped.setdefault(row.route, []).append(row)
    names = sorted(grouped, key=lambda name: name != BASE)
    return {name: summarize_rows(grouped[name], seconds, options) for name in names}


def split_windows(rows: Sequence[RequestRow], length: float) -> list[TimeWindow]:
    """Split the load into windows of `length` seconds; the last one may be shorter."""
    parts: dict[int, list[RequestRow]] = {}
    for row in rows:
        parts.setdefault(int(row.scheduled // length), []).append(row)
    return [_window(number * length, parts[number]) for number in sorted(parts)]


def drift(parts: Sequence[TimeWindow]) -> float | None:
    """Return the median TTFT of the last window relative to the first; None with fewer than two windows.

    A last window with less than half of the first one's requests is ignored.
    """
    whole = [part for part in parts if part.ttft is not None and part.requests * 2 >= parts[0].requests]
    if len(whole) < 2 or not whole[0].ttft or whole[-1].ttft is None:
        return None
    return whole[-1].ttft / whole[0].ttft


def client_health(rows: Sequence[RequestRow], busy: float | None) -> ClientHealth:
    """Summarize the client's lag; `busy` is the share of one core that it used.

    Raises:
        ValueError: there are no rows.
    """
    lags = [max(0.0, row.lag) for row in rows]
    return ClientHealth(quantile(lags, 0.5), quantile(lags, 0.99), max(lags), busy)


def _window(begin: float, rows: Sequence[RequestRow]) -> TimeWindow:
    ttfts, tpots = measured_seconds(rows, "ttft"), measured_seconds(rows, "tpot")
    return TimeWindow(
        begin=begin,
        requests=len(rows),
        errors=sum(row.error is not None for row in rows),
        ttft=quantile(ttfts, 0.5) if ttfts else None,
        tpot=quantile(tpots, 0.5) if tpots else None,
    )
