"""The price list: prices of tokens, GPU time, training and storage, in the format of `prices` in loramux.yaml."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Weight = Annotated[Decimal, Field(gt=0, le=1_000, allow_inf_nan=False)]

_NANODOLLARS_PER_TOKEN = 1000
"""At a price of one dollar per million tokens."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenPrices(_Frozen):
    """US dollars per million tokens; `cached` defaults to the price of `input`."""

    input: Dollars = Decimal(0)
    cached: Dollars | None = None
    output: Dollars = Decimal(0)

    def nanodollars(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """Return the cost in nano-dollars; `input_tokens` include the cached ones."""
        cached = self.input if self.cached is None else self.cached
        dollars = (input_tokens - cached_tokens) * self.input + cached_tokens * cached + output_tokens * self.output
        return dollars * _NANODOLLARS_PER_TOKEN


class AdapterPrices(_Frozen):
    """Prices of one adapter: the base's times `multiplier`, or its own `tokens`; `training` is its one-time cost."""

    multiplier: Dollars = Decimal(1)
    tokens: TokenPrices | None = None
    training: Dollars | None = None


class PriceList(_Frozen):
    """The price list of a server in US dollars; a price that is not set counts as 0, but what it makes is unpriced.

    A price of 0 that is set is a price. `gpu_hour` is the price of one of `gpus`. Requests share the cost of busy
    engine time by work: `prefill_weight` per prompt token that is computed, `decode_weight` per decoding step of a
    sequence. If neither is set, the server measures them when it is idle (`loramux calibrate` does so at once).
    """

    base: TokenPrices = TokenPrices()
    adapter: AdapterPrices = AdapterPrices()
    """Prices of every adapter that is not in `adapters`."""
    adapters: dict[str, AdapterPrices] = {}
    gpu_hour: Dollars = Decimal(0)
    gpus: Annotated[int, Field(ge=1, le=1024)] = 1
    prefill_weight: Weight = Decimal(1)
    decode_weight: Weight = Decimal(4)
    storage_gb_month: Dollars = Decimal(0)
    training_tokens: Dollars = Decimal(0)
    """Per million tokens that a fine-tuning job reads: prompts and answers of all epochs."""

    @property
    def has_token_prices(self) -> bool:
        """Whether tokens have a price, on the base or on an adapter."""
        own = (self.adapter, *self.adapters.values())
        return self.is_priced(None) or any(prices.tokens is not None for prices in own)

    @property
    def has_gpu_hour_price(self) -> bool:
        """Whether the engine's time has a price."""
        return "gpu_hour" in self.model_fields_set

    def is_priced(self, adapter: str | None) -> bool:
        """Return whether tokens have a price on an adapter or (None) on the base."""
        own = None if adapter is None else self.adapter_prices(adapter).tokens
        return own is not None or bool(self.base.model_fields_set)

    def adapter_prices(self, adapter: str) -> AdapterPrices:
        """Return the prices of an adapter, by its name without a version."""
        return self.adapters.get(adapter, self.adapter)

    def token_nanodollars(
        self, adapter: str | None, input_tokens: int, cached_tokens: int, output_tokens: int
    ) -> Decimal:
        """Return the cost of a request's tokens in nano-dollars, on an adapter or (None) on the base."""
        own = AdapterPrices() if adapter is None else self.adapter_prices(adapter)
        nanodollars = (own.tokens or self.base).nanodollars(input_tokens, cached_tokens, output_tokens)
        return nanodollars if own.tokens else nanodollars * own.multiplier

    def machine_usd(self, seconds: float) -> float:
        """Return the cost of all GPUs for this time in US dollars."""
        return float(self.gpu_hour) * self.gpus * seconds / 3600
