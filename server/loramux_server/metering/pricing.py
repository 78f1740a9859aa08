"""The price list of the server, and the costs by it."""

import hashlib
import json
from decimal import Decimal

from loramux_adapters.evaluation.token_prices import PriceList


class Prices(PriceList):
    """The price list of a server, with the costs that it charges and reports."""

    @property
    def version(self) -> str:
        """A hash of these prices: 12 hexadecimal digits."""
        unset = {"training_tokens"} if not self.training_tokens else set()  # keeps the hashes of earlier releases
        text = json.dumps(self.model_dump(mode="json", exclude=unset), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def token_cost(self, adapter: str | None, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return the cost of a request's tokens in whole nano-dollars, on an adapter or (None) on the base."""
        return round(self.token_nanodollars(adapter, input_tokens, cached_tokens, output_tokens))

    def stated_training_cost(self, adapter: str) -> Decimal | None:
        """Return the training cost of the adapter in dollars, None if the price list has none."""
        return self.adapter_prices(adapter).training

    def training_cost(self, tokens: int, seconds: float) -> dict[str, float]:
        """Return the cost of a fine-tuning job in dollars, by mode: `price_list`, and `gpu_hour` for one GPU."""
        return {
            "price_list": float(self.training_tokens * tokens / 10**6),
            "gpu_hour": float(self.gpu_hour) * seconds / 3600,
        }

    @property
    def nanodollars_per_hour(self) -> int:
        """The price of an hour on all GPUs."""
        return round(self.gpu_hour * self.gpus * 10**9)
