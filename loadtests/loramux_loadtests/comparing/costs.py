"""What answers cost: by a list of token prices, and by the time of the machine that made them."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from loramux_loadtests.comparing.rows import Row, Turns
from loramux_loadtests.prices import Dollars, TokenPrices

MODES = ("price_list", "gpu_hour")


class Prices(BaseModel):
    """The prices of the arms, by their names; of others `default`.

    `gpu_hour` is the rate of the machine that answers. The time of an arm's turns is split among its requests by their
    work, as loramux's ledger does: an input token that was not cached is `prefill_weight`, an output token
    `decode_weight`.
    `training` is what making the challenger cost, `month` what keeping it costs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: TokenPrices = TokenPrices()
    arms: dict[str, TokenPrices] = {}
    gpu_hour: Dollars = 0.0
    prefill_weight: Annotated[float, Field(gt=0)] = 1.0
    decode_weight: Annotated[float, Field(gt=0)] = 4.0
    training: Dollars = 0.0
    month: Dollars = 0.0

    def work(self, row: Row) -> float:
        """How much of the machine a request took, beside others."""
        return (row.input_tokens - row.cached_tokens) * self.prefill_weight + row.output_tokens * self.decode_weight


def costs(rows: Sequence[Row], prices: Prices, turns: Turns) -> Mapping[str, list[float]]:
    """What each request of an arm cost in US dollars, by both modes; `turns` are those of the arm."""
    work = [prices.work(row) for row in rows]
    seconds = turns.seconds * len(rows) / turns.answers if turns.answers else 0.0
    rate = prices.gpu_hour * seconds / 3600 / sum(work) if any(work) else 0.0
    return {
        "price_list": [prices.arms.get(row.arm, prices.default).usd(row) for row in rows],
        "gpu_hour": [rate * share for share in work],
    }


class BreakEven(NamedTuple):
    """When a challenger has paid for itself: after so many requests within its first month; `inf`: never."""

    saving: float
    to_earn: float
    requests: float


def break_even(challenger: float, reference: float, prices: Prices) -> BreakEven:
    """Compare what a request costs in US dollars on the one and on the other."""
    saving, to_earn = reference - challenger, prices.training + prices.month
    return BreakEven(saving, to_earn, to_earn / saving if saving > 0 else inf)
