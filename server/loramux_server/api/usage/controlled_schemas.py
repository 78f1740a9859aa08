"""Response schemas of controlled results in the usage report."""

from typing import Annotated, Self

from pydantic import BaseModel, Field

from loramux_adapters.evaluation.statistics import Interval
from loramux_server.controlled_results.break_even import ControlledBreakEven
from loramux_server.controlled_results.models import ControlledResult, ResultKind
from loramux_server.metering.ledger.time_range import format_time


class MeanInterval(BaseModel):
    """A mean with the bounds of its confidence interval."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, interval: Interval | None) -> Self | None:
        """Return the schema of an interval."""
        return None if interval is None else cls(low=interval.low, mean=interval.estimate, high=interval.high)


class RequestsInterval(BaseModel):
    """A number of requests with the bounds of its confidence interval."""

    low: int
    estimate: int
    high: int


class BreakEvenByPriceList(BaseModel):
    """Requests after which the saving, by the price list, covers the cost of training and of a month's storage."""

    sentence: Annotated[str, Field(description="The number of requests, or why it is unknown or not shown.")]
    saving_usd_per_request: Annotated[MeanInterval | None, Field(description="Relative to the baseline.")]
    fixed_cost_usd: float | None
    requests: Annotated[RequestsInterval | None, Field(description="Null unless a saving is shown.")]

    @classmethod
    def of(cls, found: ControlledBreakEven) -> Self:
        """Return the schema of a break-even."""
        return cls(
            sentence=found.sentence,
            saving_usd_per_request=MeanInterval.of(found.saving),
            fixed_cost_usd=found.fixed_cost,
            requests=None if found.requests is None else RequestsInterval(**found.requests._asdict()),
        )


class Controlled(BaseModel):
    """The last controlled result of an adapter: the same items, or random shares of users, on two variants."""

    kind: ResultKind
    id: Annotated[str, Field(description="Id of the fine-tuning job, or name of the experiment.")]
    version: Annotated[str | None, Field(description="The measured version; null if it is no longer registered.")]
    is_current: Annotated[bool, Field(description="Whether the adapter's name points at the measured version alone.")]
    measured_at: Annotated[str, Field(description="ISO 8601, UTC.")]
    verdict: str
    sentence: str
    items: Annotated[int, Field(description="Items, or users and requests of an experiment, of each variant.")]
    baseline: Annotated[str, Field(description="The variant that the adapter was compared with.")]
    measure: Annotated[str | None, Field(description="The measure of quality.")]
    gain: Annotated[MeanInterval | None, Field(description="The adapter's mean of `measure` minus the baseline's.")]
    break_even: BreakEvenByPriceList
    command: Annotated[str, Field(description="The command that shows the whole result.")]

    @classmethod
    def of(cls, result: ControlledResult, found: ControlledBreakEven, *, is_current: bool) -> Self:
        """Return the schema of a result and its break-even."""
        return cls(
            kind=result.kind,
            id=result.id,
            version=result.version,
            is_current=is_current,
            measured_at=format_time(result.measured_at),
            verdict=result.verdict,
            sentence=result.sentence,
            items=result.items,
            baseline=result.baseline,
            measure=result.measure,
            gain=MeanInterval.of(result.gain),
            break_even=BreakEvenByPriceList.of(found),
            command=result.command,
        )
