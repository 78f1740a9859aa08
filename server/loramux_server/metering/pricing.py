"""The price list: what tokens, the engine's time, and making and keeping a fine-tune cost."""

import hashlib
import json
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Weight = Annotated[Decimal, Field(gt=0, le=1_000, allow_inf_nan=False)]

_NANODOLLARS_PER_TOKEN = 1000
"""What a token costs if a million of them cost a dollar."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenPrices(_Frozen):
    """US dollars for a million tokens; a cached token costs what any input costs, where that is left open."""

    input: Dollars = Decimal(0)
    cached: Dollars | None = None
    output: Dollars = Decimal(0)

    def nanodollars(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """Return what so many tokens cost; `input_tokens` include the cached ones."""
        cached = self.input if self.cached is None else self.cached
        dollars = (input_tokens - cached_tokens) * self.input + cached_tokens * cached + output_tokens * self.output
        return dollars * _NANODOLLARS_PER_TOKEN


class AdapterPrices(_Frozen):
    """What one adapter costs: the base's prices `multiplier` times, or `tokens` of its own; and once its `training`."""

    multiplier: Dollars = Decimal(1)
    tokens: TokenPrices | None = None
    training: Dollars | None = None


class Prices(_Frozen):
    """The price list of a server; nothing costs anything where it is not said.

    `gpu_hour` is the rate of one of `gpus`; the engine's busy time is split by work, of which an input token that was
    not cached is `prefill_weight` and an output token `decode_weight` (`loramux calibrate` measures them).
    """

    base: TokenPrices = TokenPrices()
    adapter: AdapterPrices = AdapterPrices()
    """Of every adapter that is not in `adapters`."""
    adapters: dict[str, AdapterPrices] = {}
    gpu_hour: Dollars = Decimal(0)
    gpus: Annotated[int, Field(ge=1, le=1024)] = 1
    prefill_weight: Weight = Decimal(1)
    decode_weight: Weight = Decimal(4)
    storage_gb_month: Dollars = Decimal(0)
    training_tokens: Dollars = Decimal(0)
    """Of a million tokens that a fine-tuning job reads, prompts and answers of all epochs."""

    @property
    def version(self) -> str:
        """Names these prices by what they are: 12 hexadecimal digits."""
        unset = {"training_tokens"} if not self.training_tokens else set()  # older versions keep their names
        text = json.dumps(self.model_dump(mode="json", exclude=unset), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def cost(self, adapter: str | None, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return what a request's tokens cost on an adapter, or on the base, in nano-dollars."""
        own = AdapterPrices() if adapter is None else self._of(adapter)
        nanodollars = (own.tokens or self.base).nanodollars(input_tokens, cached_tokens, output_tokens)
        return round(nanodollars if own.tokens else nanodollars * own.multiplier)

    def training(self, adapter: str) -> Decimal | None:
        """Return what making the adapter cost in dollars, None where it was not said."""
        return self._of(adapter).training

    def training_cost(self, tokens: int, seconds: float) -> dict[str, float]:
        """Return what a training costs in dollars, by the price list and by the rate of one GPU."""
        return {
            "price_list": float(self.training_tokens * tokens / 10**6),
            "gpu_hour": float(self.gpu_hour) * seconds / 3600,
        }

    @property
    def nanodollars_per_hour(self) -> int:
        """What all GPUs together cost."""
        return round(self.gpu_hour * self.gpus * 10**9)

    def _of(self, adapter: str) -> AdapterPrices:
        return self.adapters.get(adapter, self.adapter)
