"""The price list of the server, and the costs by it."""

import hashlib
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from loramux_adapters.evaluation.token_prices import PriceList
from loramux_server.metering.cost_allocation import WEIGHT_UNITS, Weights


class Prices(PriceList):
    """The price list of a server, with the costs that it charges and reports."""

    @property
    def version(self) -> str:
        """A hash of these prices: 12 hexadecimal digits."""
        unset = {"training_tokens"} if not self.training_tokens else set()  # keeps the hashes of earlier releases
        values = self.model_dump(mode="json", exclude=unset)
        if zeros := self._explicit_zeros():
            values["explicit_zeros"] = zeros
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def _explicit_zeros(self) -> list[str]:
        """The prices that are set to 0, where not to set them has another meaning."""
        is_set = {"base": self.is_priced(None), "gpu_hour": self.has_gpu_hour_price}
        is_zero = {"base": not any(self.base.model_dump().values()), "gpu_hour": not self.gpu_hour}
        return [name for name in is_set if is_set[name] and is_zero[name]]

    def token_cost(self, adapter: str | None, input_tokens: int, cached_tokens: int, output_tokens: int) -> int | None:
        """Return the cost of a request's tokens in whole nano-dollars, on an adapter or (None) on the base.

        The cost is None if these tokens have no price.
        """
        if not self.is_priced(adapter):
            return None
        return round(self.token_nanodollars(adapter, input_tokens, cached_tokens, output_tokens))

    def stated_training_cost(self, adapter: str) -> Decimal | None:
        """Return the training cost of the adapter in dollars, None if the price list has none."""
        return self.adapter_prices(adapter).training

    def training_cost(self, tokens: int, seconds: float) -> dict[str, float | None]:
        """Return the cost of a fine-tuning job in dollars, by mode: `price_list`, and `gpu_hour` for one GPU.

        A cost is None if there is no price for it.
        """
        price_list, gpu_hour = float(self.training_tokens * tokens / 10**6), float(self.gpu_hour) * seconds / 3600
        return {
            "price_list": price_list if "training_tokens" in self.model_fields_set else None,
            "gpu_hour": gpu_hour if self.has_gpu_hour_price else None,
        }

    @property
    def nanodollars_per_hour(self) -> int | None:
        """The price of an hour on all GPUs, None if it is not set."""
        if not self.has_gpu_hour_price:
            return None
        return round(self.gpu_hour * self.gpus * 10**9)

    @property
    def has_default_weights(self) -> bool:
        """Whether the price list sets no weight, so that measured ones may be used."""
        return self.model_fields_set.isdisjoint({"prefill_weight", "decode_weight"})

    @property
    def weights(self) -> Weights:
        """The weights by which requests share the cost of the engine's time."""
        return Weights(*(round(weight * WEIGHT_UNITS) for weight in (self.prefill_weight, self.decode_weight)))


class PriceSource(Protocol):
    """Has the price list and the weights of this moment; they may change at run time."""

    @property
    def current(self) -> Prices:
        """The price list."""

    @property
    def weights(self) -> Weights:
        """The weights by which requests share the cost of the engine's time."""


@dataclass(frozen=True)
class FixedPrices:
    """A PriceSource whose prices never change."""

    current: Prices

    @property
    def weights(self) -> Weights:
        """Those of the price list."""
        return self.current.weights
