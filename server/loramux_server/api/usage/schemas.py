"""Response schemas of the usage report."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, Field

from loramux_server.api.usage.controlled_schemas import Controlled
from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.ledger.distributions import Histogram
from loramux_server.metering.ledger.reader import UsageTotals
from loramux_server.metering.ledger.training_costs import TrainingTotals
from loramux_server.metering.usage_record import Outcome

COST_MODES = ("price_list", "gpu_hour")
"""The two ways of calculating a cost: from tokens and a price list, and from engine time."""


MIN_COUNTS = {"p50": 1, "p95": 20, "p99": 100}
"""A quantile of fewer requests would be the slowest request's value, whatever the quantile."""


class Quantiles(BaseModel):
    """Quantiles over successful requests, in seconds, accurate to 1 %; null if too few were measured."""

    p50: float | None
    p95: Annotated[float | None, Field(description="Null for fewer than 20 requests.")]
    p99: Annotated[float | None, Field(description="Null for fewer than 100 requests.")]
    max: float | None
    count: Annotated[int, Field(description="Requests that were measured.")]

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Return the quantiles of a histogram."""
        quantiles = {
            name: histogram.quantile(float(name[1:]) / 100) if histogram.count >= least else None
            for name, least in MIN_COUNTS.items()
        }
        return cls(**quantiles, max=histogram.quantile(1.0), count=histogram.count)


class Latency(BaseModel):
    """Latency quantiles."""

    queue: Annotated[Quantiles, Field(description="Wait in the engine's queue.")]
    first_token: Annotated[Quantiles, Field(description="From the request's arrival to its first token.")]
    time_per_output_token: Annotated[Quantiles, Field(description="(last token - first token) / (output tokens - 1).")]
    duration: Annotated[Quantiles, Field(description="From the request's arrival to its response's end.")]


class Tokens(BaseModel):
    """Token counts; `input` includes `cached`."""

    input: int
    cached: int
    output: int


class Cost(BaseModel):
    """Total cost of the requests that were charged at a price, exact in nano-dollars, and averages; null if unknown."""

    nanodollars: Annotated[int | None, Field(description="Null if no request was charged at a price.")] = None
    usd: float | None = None
    usd_per_request: Annotated[float | None, Field(description="Average, without refused and unpriced requests.")] = (
        None
    )
    usd_per_1000_output_tokens: Annotated[float | None, Field(description="Null if there are unpriced requests.")] = (
        None
    )
    unpriced_requests: Annotated[
        int, Field(description="Requests that ended while no price was set: their cost is unknown and not included.")
    ]

    @classmethod
    def of(cls, mode: str, usage: UsageTotals) -> Self:
        """Return the cost by a mode, and its averages per request and per output token."""
        unpriced, output = usage.unpriced.get(mode, 0), usage.sums["output_tokens"]
        priced = usage.requests - usage.outcomes[Outcome.REFUSED] - unpriced
        if unpriced and priced <= 0:
            return cls(unpriced_requests=unpriced)
        nanodollars = usage.sums[f"{mode}_cost"]
        usd = nanodollars / NANODOLLARS
        return cls(
            nanodollars=nanodollars,
            usd=usd,
            usd_per_request=usd / priced if priced > 0 else None,
            usd_per_1000_output_tokens=usd / output * 1000 if output and not unpriced else None,
            unpriced_requests=unpriced,
        )


class Costs(BaseModel):
    """Cost by each mode."""

    price_list: Annotated[Cost, Field(description="Tokens at the prices of the price list.")]
    gpu_hour: Annotated[Cost, Field(description="Share of the engine's time at the GPU-hour price.")]


class Group(BaseModel):
    """Usage of the requests with one label."""

    label: Annotated[Mapping[str, str], Field(description="Values that the requests share; empty if they have none.")]
    requests: int
    outcomes: Annotated[Mapping[str, int], Field(description="Requests by outcome: ok, cancelled, refused, failed.")]
    cold: Annotated[int, Field(description="Requests whose adapter was not loaded yet.")]
    tokens: Tokens
    latency: Latency
    cost: Costs
    controlled: Annotated[
        Controlled | None,
        Field(description="Last controlled result of the adapter; null for other groups, or if there is none."),
    ] = None
    against_base: Annotated[
        None, Field(deprecated=True, description="Always null: live traffic is not an experiment. See `controlled`.")
    ] = None
    break_even: Annotated[
        None, Field(deprecated=True, description="Always null: see `break_even` of `controlled`.")
    ] = None

    @classmethod
    def of(cls, label: Mapping[str, str], usage: UsageTotals, controlled: Controlled | None = None) -> Self:
        """Return the schema of a group."""
        distributions, sums = usage.distributions(), usage.sums
        return cls(
            label=label,
            requests=usage.requests,
            outcomes=usage.outcomes,
            cold=sums["cold"],
            tokens=Tokens(input=sums["input_tokens"], cached=sums["cached_tokens"], output=sums["output_tokens"]),
            latency=Latency(**{name: Quantiles.of(distributions.measure(name)) for name in Latency.model_fields}),
            cost=Costs(**{mode: Cost.of(mode, usage) for mode in COST_MODES}),
            controlled=controlled,
        )


class Engine(BaseModel):
    """Engine time and its cost, split into requests and idle time, over the minutes of the time range."""

    seconds: float
    busy_seconds: float
    requests_usd: Annotated[float | None, Field(description="Null if no GPU-hour price was set.")]
    idle_usd: float | None

    @classmethod
    def of(cls, time: EngineTime, *, has_price: bool) -> Self:
        """Return the schema of an engine time; `has_price` is whether a price of 0 is one that was set."""
        costs = (time.requests_nanodollars, time.idle_nanodollars)
        requests, idle = (cost / NANODOLLARS if has_price or any(costs) else None for cost in costs)
        return cls(seconds=time.seconds, busy_seconds=time.busy_seconds, requests_usd=requests, idle_usd=idle)


class Training(BaseModel):
    """Tokens, time and cost, over all attempts, of the fine-tuning jobs that ran in the time range."""

    jobs: int
    tokens: int
    seconds: float
    price_list_usd: Annotated[float | None, Field(description="Null if no job was charged at a price.")]
    gpu_hour_usd: float | None
    unpriced_jobs: Annotated[
        Mapping[str, int], Field(description="By cost mode: jobs without a price, whose cost is unknown and left out.")
    ]

    @classmethod
    def of(cls, totals: TrainingTotals) -> Self:
        """Return the schema of training totals."""
        unpriced = {mode: getattr(totals, f"{mode}_unpriced") for mode in COST_MODES}
        costs = {
            f"{mode}_usd": None if 0 < totals.jobs <= count else getattr(totals, f"{mode}_cost") / NANODOLLARS
            for mode, count in unpriced.items()
        }
        return cls(jobs=totals.jobs, tokens=totals.tokens, seconds=totals.seconds, unpriced_jobs=unpriced, **costs)


class UsageReport(BaseModel):
    """Usage of each group from `since` up to `until`."""

    since: Annotated[str, Field(description="ISO 8601, UTC.")]
    until: str
    group_by: str
    groups: Sequence[Group]
    count: Annotated[int, Field(description="Number of groups, of which at most `limit` are returned.")]
    total: Group | None
    engine: Annotated[Engine | None, Field(description="Null in the report of one project.")]
    training: Training
    price_version: Annotated[str, Field(description="Version of the present prices; each record keeps its own.")]
    prices_set: Annotated[Mapping[str, bool], Field(description="By cost mode: whether a price is set at present.")]
