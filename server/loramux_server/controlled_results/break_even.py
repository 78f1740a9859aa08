"""After how many requests an adapter has paid for its fixed cost, by a controlled result and the price list."""

from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import NamedTuple

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import MIN_REQUESTS, TokenCosts
from loramux_server.controlled_results.models import ControlledResult
from loramux_server.metering.cost_allocation import NANODOLLARS
from loramux_server.metering.pricing import Prices


class Requests(NamedTuple):
    """A number of requests with the bounds of its 95 % interval."""

    low: int
    estimate: int
    high: int


@dataclass(frozen=True)
class ControlledBreakEven:
    """The break-even, or a sentence that says why there is none; amounts in US dollars."""

    sentence: str
    saving: Interval | None = None
    """Per request, relative to the baseline."""
    fixed_cost: float | None = None
    """Training and one month of storage."""
    requests: Requests | None = None
    """Requests whose saving covers the fixed cost."""


def break_even(result: ControlledResult, prices: Prices, fixed_cost: Decimal | None) -> ControlledBreakEven:
    """Return the break-even by the price list; `fixed_cost` is in nano-dollars, None if it is unknown.

    A saving counts only where the adapter is shown to be as good as the baseline or better.
    """
    if not result.is_baseline_base:
        return ControlledBreakEven("not shown: the baseline is another version, not the base")
    base, adapter = _token_costs(prices, None), _token_costs(prices, result.adapter)
    if not (prices.is_priced(None) and prices.is_priced(result.adapter)):
        return ControlledBreakEven("unknown: no prices set")
    if result.tokens is None or result.tokens.requests < MIN_REQUESTS:
        return ControlledBreakEven(f"unknown: the tokens of fewer than {MIN_REQUESTS} compared requests are known")
    if not result.tokens.has_cached and any(costs.cached != costs.input for costs in (base, adapter)):
        return ControlledBreakEven("unknown: the result does not count cached tokens, whose price is another")
    if not result.is_worth_it:
        return ControlledBreakEven(f"not shown: the verdict is “{result.verdict}”")
    saving = Interval(*(nanodollars / NANODOLLARS for nanodollars in result.tokens.saving(adapter, base)))
    if fixed_cost is None:
        return ControlledBreakEven("unknown: the training has no price", saving)
    return _from_saving(saving, float(fixed_cost) / NANODOLLARS, result.baseline)


def _from_saving(saving: Interval, fixed_cost: float, baseline: str) -> ControlledBreakEven:
    if saving.high < 0:
        return ControlledBreakEven(f"never: a request costs more than one to the {baseline}", saving, fixed_cost)
    if saving.low <= 0:
        return ControlledBreakEven("not shown: the interval of the saving contains 0", saving, fixed_cost)
    if not fixed_cost:
        return ControlledBreakEven(f"every request costs less than one to the {baseline}", saving, fixed_cost)
    requests = Requests(*(ceil(fixed_cost / usd) for usd in reversed(saving)))
    low, estimate, high = (f"{count:,}" for count in requests)
    return ControlledBreakEven(f"pays after {estimate} [{low}, {high}] requests", saving, fixed_cost, requests)


def _token_costs(prices: Prices, adapter: str | None) -> TokenCosts:
    """Return nano-dollars per token of the base (None) or of an adapter."""
    counts = ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    return TokenCosts(*(float(prices.token_nanodollars(adapter, *tokens)) for tokens in counts))
