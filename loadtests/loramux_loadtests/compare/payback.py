"""After how many requests a challenger has paid for its fixed cost."""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, computed_field

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare.costs import ComparisonPrices, CostSamples, saving_per_answer


class BreakEvenRequests(NamedTuple):
    """Requests until break-even, with the bounds of a 95 % interval; None where it is never reached."""

    low: float | None
    estimate: float | None
    high: float | None


class Payback(BaseModel):
    """When the challenger has paid for its fixed cost, training and one month, by its saving per request."""

    model_config = ConfigDict(frozen=True)

    saving: Interval
    """US dollars per request."""
    fixed_cost_usd: float
    monthly: bool
    """Whether the fixed cost includes a monthly cost, which must be earned every month."""
    requests: BreakEvenRequests

    @computed_field  # type: ignore[prop-decorator]
    @property
    def to_earn(self) -> float:
        """Deprecated name of `fixed_cost_usd`, which readers of report.json may still use."""
        return self.fixed_cost_usd


def paybacks(
    prices: ComparisonPrices, challenger: Mapping[str, CostSamples], reference: Mapping[str, CostSamples]
) -> dict[str, Payback]:
    """The payback by each cost mode that has enough samples for an interval."""
    savings = {mode: saving_per_answer(challenger[mode], reference[mode]) for mode in challenger}
    return {mode: _payback(prices, saving) for mode, saving in savings.items() if saving is not None}


def _payback(prices: ComparisonPrices, saving: Interval) -> Payback:
    fixed_cost = prices.fixed_cost_usd
    return Payback(
        saving=saving,
        fixed_cost_usd=fixed_cost,
        monthly=prices.month > 0,
        requests=BreakEvenRequests(*(fixed_cost / usd if usd > 0 else None for usd in reversed(saving))),
    )


def payback_phrase(paid: Mapping[str, Payback]) -> str:
    """The end of a sentence on the first cost mode: when the challenger has paid for itself, or that it is cheaper."""
    if not paid:
        return ""
    mode, payback = next(iter(paid.items()))
    source, (low, estimate, high) = mode.replace("_", " "), payback.requests
    if not payback.fixed_cost_usd:
        return f"; a request is cheaper ({source})" if payback.saving.low > 0 else ""
    if low is None:
        return f"; it never pays for itself ({source})"
    if estimate is None or high is None:
        return f"; that it ever pays for itself is not shown ({source})"
    month = " in its first month" if payback.monthly else ""
    bounds = f" [{ceil(low):,}, {ceil(high):,}]" if ceil(low) < ceil(high) else ""
    return f"; it pays for itself after {ceil(estimate):,}{bounds} requests{month} ({source})"
