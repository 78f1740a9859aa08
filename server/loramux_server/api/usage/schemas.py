"""Response schemas of the usage report."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from loramux_server.metering import relative_to_base as comparison
from loramux_server.metering.break_even import break_even
from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.ledger.distributions import Histogram
from loramux_server.metering.ledger.reader import UsageTotals
from loramux_server.metering.ledger.training_costs import TrainingTotals

COST_MODES = ("price_list", "gpu_hour")
"""The two ways of calculating a cost: from tokens and a price list, and from engine time."""


class Quantiles(BaseModel):
    """Quantiles over successful requests, in seconds, accurate to 1 %; null if none was measured."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Return the quantiles of a histogram."""
        return cls(p50=histogram.quantile(0.5), p95=histogram.quantile(0.95), p99=histogram.quantile(0.99))


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
    """Total cost, exact in nano-dollars, and averages."""

    nanodollars: int
    usd: float
    usd_per_request: float | None
    usd_per_1000_output_tokens: float | None

    @classmethod
    def of(cls, nanodollars: int, usage: UsageTotals) -> Self:
        """Return a cost and its averages per request and per output token."""
        usd, output = nanodollars / NANODOLLARS, usage.sums["output_tokens"]
        per_token = usd / output * 1000 if output else None
        return cls(
            nanodollars=nanodollars,
            usd=usd,
            usd_per_request=usd / usage.requests,
            usd_per_1000_output_tokens=per_token,
        )


class Costs(BaseModel):
    """Cost by each mode."""

    price_list: Annotated[Cost, Field(description="Tokens at the prices of the price list.")]
    gpu_hour: Annotated[Cost, Field(description="Share of the engine's time at the GPU-hour price.")]


class Ratio(BaseModel):
    """This group's figure divided by the base's, with its 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float


class BreakEven(BaseModel):
    """Requests after which the adapter's savings cover its fixed cost, at equal quality."""

    saving_usd_per_request: Annotated[float, Field(description="Relative to the base; negative if it costs more.")]
    fixed_cost_usd: Annotated[
        float, Field(description="Cost of its training, by the price list or its jobs, and of a month's storage.")
    ]
    to_earn_usd: Annotated[float, Field(deprecated=True, description="Old name of `fixed_cost_usd`.")]
    requests: Annotated[int | Literal["never"], Field(description="Requests per month.")]

    @classmethod
    def of(cls, base: UsageTotals, usage: UsageTotals, mode: str, fixed_cost: Decimal) -> Self:
        """Compare the costs per request; `fixed_cost` in nano-dollars."""
        saving, requests = break_even(_per_request(base, mode), _per_request(usage, mode), fixed_cost)
        return cls(
            saving_usd_per_request=float(saving) / NANODOLLARS,
            fixed_cost_usd=float(fixed_cost) / NANODOLLARS,
            to_earn_usd=float(fixed_cost) / NANODOLLARS,
            requests="never" if requests is None else requests,
        )


class Group(BaseModel):
    """Usage of the requests with one label."""

    label: Annotated[Mapping[str, str], Field(description="Values that the requests share; empty if they have none.")]
    requests: int
    outcomes: Annotated[Mapping[str, int], Field(description="Requests by outcome: ok, cancelled, refused, failed.")]
    cold: Annotated[int, Field(description="Requests whose adapter was not loaded yet.")]
    tokens: Tokens
    latency: Latency
    cost: Costs
    against_base: Annotated[
        Mapping[str, Ratio] | None,
        Field(description="Ratios to the base. Live traffic is not an experiment: requests may differ."),
    ] = None
    break_even: Annotated[Mapping[str, BreakEven] | None, Field(description="By cost mode.")] = None

    @classmethod
    def of(cls, label: Mapping[str, str], usage: UsageTotals) -> Self:
        """Return the figures that need no comparison with the base."""
        distributions, sums = usage.distributions(), usage.sums
        return cls(
            label=label,
            requests=usage.requests,
            outcomes=usage.outcomes,
            cold=sums["cold"],
            tokens=Tokens(input=sums["input_tokens"], cached=sums["cached_tokens"], output=sums["output_tokens"]),
            latency=Latency(**{name: Quantiles.of(distributions.measure(name)) for name in Latency.model_fields}),
            cost=Costs(**{mode: Cost.of(sums[f"{mode}_cost"], usage) for mode in COST_MODES}),
        )

    def relative_to_base(
        self, base: comparison.BaseComparison, usage: UsageTotals, fixed_costs: Mapping[str, Decimal]
    ) -> Self:
        """Return a copy with ratios to the base, and the break-even by cost mode."""
        return self.model_copy(
            update={
                "against_base": {
                    name: Ratio(ratio=ratio.ratio, low=ratio.low, high=ratio.high) for name, ratio in base.ratios(usage)
                },
                "break_even": {mode: BreakEven.of(base.usage, usage, mode, fixed_costs[mode]) for mode in COST_MODES},
            }
        )


class Engine(BaseModel):
    """Engine time and its cost, split into requests and idle time, over the minutes of the time range."""

    seconds: float
    busy_seconds: float
    requests_usd: float
    idle_usd: float

    @classmethod
    def of(cls, time: EngineTime) -> Self:
        """Return the schema of an engine time."""
        return cls(
            seconds=time.seconds,
            busy_seconds=time.busy_seconds,
            requests_usd=time.requests_nanodollars / NANODOLLARS,
            idle_usd=time.idle_nanodollars / NANODOLLARS,
        )


class Training(BaseModel):
    """Tokens, time and cost, over all attempts, of the fine-tuning jobs that ran in the time range."""

    jobs: int
    tokens: int
    seconds: float
    price_list_usd: float
    gpu_hour_usd: float

    @classmethod
    def of(cls, time: TrainingTotals) -> Self:
        """Return the schema of training totals."""
        return cls(
            jobs=time.jobs,
            tokens=time.tokens,
            seconds=time.seconds,
            price_list_usd=time.price_list_cost / NANODOLLARS,
            gpu_hour_usd=time.gpu_hour_cost / NANODOLLARS,
        )


class UsageReport(BaseModel):
    """Usage of each group from `since` up to `until`."""

    since: Annotated[str, Field(description="ISO 8601, UTC.")]
    until: str
    group_by: str
    groups: Sequence[Group]
    count: Annotated[int, Field(description="Number of groups, of which at most `limit` are returned.")]
    total: Group | None
    engine: Engine
    training: Training
    price_version: Annotated[str, Field(description="Version of the present prices; each record keeps its own.")]


def _per_request(usage: UsageTotals, mode: str) -> Decimal:
    return Decimal(usage.sums[f"{mode}_cost"]) / usage.requests
