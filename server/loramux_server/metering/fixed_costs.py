"""The fixed cost of an adapter: its training, and one month of its storage."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from loramux_server.metering.cost_allocation import NANODOLLARS
from loramux_server.metering.ledger.training_costs import TrainingCosts, TrainingTotals
from loramux_server.metering.pricing import Prices, PriceSource

_BYTES_PER_GB = 10**9


class StorageSizes(Protocol):
    """Looks up how much storage adapters use."""

    def stored_bytes(self, adapter: str) -> int:
        """Return the size of all versions of `adapter`, 0 for an unknown adapter."""


@dataclass(frozen=True)
class FixedCosts:
    """The fixed costs of all adapters at one moment; `jobs` are the fine-tuning totals by adapter name.

    The training cost of an adapter is the price list's, if it has one, else what its fine-tuning jobs here cost.
    """

    prices: Prices
    storage: StorageSizes
    jobs: Mapping[str, TrainingTotals]

    def fixed_cost(self, adapter: str, mode: str) -> Decimal | None:
        """Return nano-dollars for training and one month of storage; `mode` is `price_list` or `gpu_hour`.

        None if the training has no price: nothing is stated, and no job here was charged, or one was without a price.
        """
        training = self._training_cost(adapter, mode)
        storage = self.storage.stored_bytes(adapter) * self.prices.storage_gb_month / _BYTES_PER_GB
        return None if training is None else storage * NANODOLLARS + training

    def _training_cost(self, adapter: str, mode: str) -> Decimal | None:
        stated, jobs = self.prices.stated_training_cost(adapter), self.jobs.get(adapter)
        if stated is not None:
            return stated * NANODOLLARS
        if jobs is None or (jobs.price_list_unpriced if mode == "price_list" else jobs.gpu_hour_unpriced):
            return None
        return Decimal(jobs.price_list_cost if mode == "price_list" else jobs.gpu_hour_cost)


class FixedCostSource:
    """Reads the fixed costs of adapters from the price list, the store and the ledger."""

    def __init__(self, prices: PriceSource, storage: StorageSizes, training_costs: TrainingCosts) -> None:
        self._prices, self._storage, self._training_costs = prices, storage, training_costs

    def read(self) -> FixedCosts:
        """Return the fixed costs as of now; reads the database."""
        return FixedCosts(self._prices.current, self._storage, self._training_costs.by_adapter())
