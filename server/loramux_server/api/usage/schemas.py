"""Usage as the administration's answers show it."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from loramux_server.metering import relative_to_base as comparison
from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.ledger.distributions import Histogram
from loramux_server.metering.ledger.reader import Usage
from loramux_server.metering.ledger.training_costs import TrainingTime

MODES = ("price_list", "gpu_hour")
"""Both ways in which a request has a cost."""


class Quantiles(BaseModel):
    """Of the requests that ended well, in seconds, right to 1 %; null if none was measured."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Read the quantiles off a histogram."""
        return cls(p50=histogram.quantile(0.5), p95=histogram.quantile(0.95), p99=histogram.quantile(0.99))


class Latency(BaseModel):
    """How long it took."""

    queue: Annotated[Quantiles, Field(description="Waiting in the engine to be scheduled.")]
    first_token: Annotated[Quantiles, Field(description="From the request's arrival to its first token.")]
    time_per_output_token: Annotated[Quantiles, Field(description="(last token - first token) / (output tokens - 1).")]
    duration: Annotated[Quantiles, Field(description="From the request's arrival to its response's end.")]


class Tokens(BaseModel):
    """How many; `input` includes the cached ones."""

    input: int
    cached: int
    output: int


class Cost(BaseModel):
    """What all of it cost, exactly, and what that means."""

    nanodollars: int
    usd: float
    usd_per_request: float | None
    usd_per_1000_output_tokens: float | None

    @classmethod
    def of(cls, nanodollars: int, usage: Usage) -> Self:
        """Spread a cost over what it bought."""
        usd, output = nanodollars / NANODOLLARS, usage.sums["output_tokens"]
        per_token = usd / output * 1000 if output else None
        return cls(
            nanodollars=nanodollars,
            usd=usd,
            usd_per_request=usd / usage.requests,
            usd_per_1000_output_tokens=per_token,
        )


class Costs(BaseModel):
    """Both ways to count it."""

    price_list: Annotated[Cost, Field(description="The tokens, by the price list.")]
    gpu_hour: Annotated[Cost, Field(description="The share of the engine's time.")]


class Ratio(BaseModel):
    """This group's figure over the base's, with its 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float


class BreakEven(BaseModel):
    """When the fine-tune has paid for itself, if its answers are worth as much as the base's."""

    saving_usd_per_request: Annotated[float, Field(description="Against the base; below 0 if it costs more.")]
    to_earn_usd: Annotated[
        float, Field(description="Its training, by the price list or as its jobs took, and a month's storage.")
    ]
    requests: Annotated[int | Literal["never"], Field(description="So many within a month.")]

    @classmethod
    def of(cls, base: Usage, usage: Usage, mode: str, to_earn: Decimal) -> Self:
        """Compare costs of a request; `to_earn` in nano-dollars."""
        saving, requests = comparison.break_even(_per_request(base, mode), _per_request(usage, mode), to_earn)
        return cls(
            saving_usd_per_request=float(saving) / NANODOLLARS,
            to_earn_usd=float(to_earn) / NANODOLLARS,
            requests="never" if requests is None else requests,
        )


class Group(BaseModel):
    """What the requests of one label did and cost."""

    label: Annotated[Mapping[str, str], Field(description="What they have in common; an empty text: they have none.")]
    requests: int
    outcomes: Annotated[Mapping[str, int], Field(description="How they ended: ok, cancelled, refused or failed.")]
    cold: Annotated[int, Field(description="Requests that found their adapter not yet in the engine.")]
    tokens: Tokens
    latency: Latency
    cost: Costs
    against_base: Annotated[
        Mapping[str, Ratio] | None, Field(description="Live traffic is no experiment: others may ask for other things.")
    ] = None
    break_even: Annotated[Mapping[str, BreakEven] | None, Field(description="By each way to count the cost.")] = None

    @classmethod
    def of(cls, label: Mapping[str, str], usage: Usage) -> Self:
        """Show what is known without the base."""
        distributions, sums = usage.distributions(), usage.sums
        return cls(
            label=label,
            requests=usage.requests,
            outcomes=usage.outcomes,
            cold=sums["cold"],
            tokens=Tokens(input=sums["input_tokens"], cached=sums["cached_tokens"], output=sums["output_tokens"]),
            latency=Latency(**{name: Quantiles.of(distributions.measure(name)) for name in Latency.model_fields}),
            cost=Costs(**{mode: Cost.of(sums[f"{mode}_cost"], usage) for mode in MODES}),
        )

    def beside(self, base: comparison.Base, usage: Usage, to_earn: Mapping[str, Decimal]) -> Self:
        """Return the same with what the base makes of it."""
        return self.model_copy(
            update={
                "against_base": {
                    name: Ratio(ratio=found.ratio, low=found.low, high=found.high) for name, found in base.ratios(usage)
                },
                "break_even": {mode: BreakEven.of(base.usage, usage, mode, to_earn[mode]) for mode in MODES},
            }
        )


class Engine(BaseModel):
    """Where the engine's time went, in the minutes that the range touches; its cost is what requests owe, and idle."""

    seconds: float
    busy_seconds: float
    requests_usd: float
    idle_usd: float

    @classmethod
    def of(cls, time: EngineTime) -> Self:
        """Show a stretch of time."""
        return cls(
            seconds=time.seconds,
            busy_seconds=time.busy_seconds,
            requests_usd=time.requests_nanodollars / NANODOLLARS,
            idle_usd=time.idle_nanodollars / NANODOLLARS,
        )


class Training(BaseModel):
    """What fine-tuning jobs took that were worked on in the time that is asked for, over all their runs."""

    jobs: int
    tokens: int
    seconds: float
    price_list_usd: float
    gpu_hour_usd: float

    @classmethod
    def of(cls, time: TrainingTime) -> Self:
        """Show what jobs took."""
        return cls(
            jobs=time.jobs,
            tokens=time.tokens,
            seconds=time.seconds,
            price_list_usd=time.price_list_cost / NANODOLLARS,
            gpu_hour_usd=time.gpu_hour_cost / NANODOLLARS,
        )


class UsageReport(BaseModel):
    """What each group did and cost from `since` up to `until`."""

    since: Annotated[str, Field(description="ISO 8601, UTC.")]
    until: str
    group_by: str
    groups: Sequence[Group]
    count: Annotated[int, Field(description="How many groups there are, of which `limit` are shown.")]
    total: Group | None
    engine: Engine
    training: Training
    price_version: Annotated[str, Field(description="Of the prices now; each record keeps its own.")]


def _per_request(usage: Usage, mode: str) -> Decimal:
    return Decimal(usage.sums[f"{mode}_cost"]) / usage.requests
