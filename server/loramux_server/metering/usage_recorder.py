"""The books of a server: what requests cost, and the ledger that keeps it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from loramux_server.metering.charging import Accounts
from loramux_server.metering.cost_allocation import NANODOLLARS
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import Book
from loramux_server.metering.ledger.training_costs import TrainingBook, TrainingTime
from loramux_server.metering.ledger.writer import LedgerWriter, Limits
from loramux_server.metering.pricing import Prices
from loramux_server.metering.prometheus import Metrics

if TYPE_CHECKING:
    from loramux_server.metering.traces import Traces

_BYTES_PER_GB = 10**9


class Catalogue(Protocol):
    """Knows what is stored of an adapter."""

    def stored_bytes(self, adapter: str) -> int:
        """The size of all its versions, 0 if there is none (any more)."""


class Books:
    """Charges what ends, and writes it down while the context of `kept` lasts."""

    def __init__(
        self, prices: Prices, limits: Limits, database: sa.Engine, metrics: Metrics, traces_endpoint: str | None
    ) -> None:
        self._prices, self._book = prices, Book(database)
        self._writer = LedgerWriter(self._book, limits, metrics)
        self._traces = _traces(traces_endpoint) if traces_endpoint else None
        self.accounts = Accounts(prices, tuple(filter(None, (metrics, self._writer, self._traces))))
        self.reader = LedgerReader(database)
        self.training = TrainingBook(database, prices)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep them; what has ended before the context's end is written at its end, unless the database is away."""
        await asyncio.to_thread(self._book.note_prices, self._prices, time.time())
        self._writer.start()
        try:
            async with self.accounts.settled():
                yield
        finally:
            await asyncio.to_thread(self._writer.close)
            if self._traces:
                await asyncio.to_thread(self._traces.close)


def _traces(endpoint: str) -> "Traces":
    # OpenTelemetry takes a third of a second to import, and most servers send no traces.
    from loramux_server.metering.traces import otlp

    return otlp(endpoint)


class Upkeep:
    """What adapters have to earn: their making, and a month of their storage.

    Where the price list does not say what an adapter's training cost, it is what its fine-tuning jobs here took.
    """

    def __init__(self, prices: Prices, catalogue: Catalogue, training: TrainingBook) -> None:
        self._prices, self._catalogue, self._training = prices, catalogue, training

    def bills(self) -> "Bills":
        """Read what jobs cost up to now: as slow as a database."""
        return Bills(self._prices, self._catalogue, self._training.by_adapter())


@dataclass(frozen=True)
class Bills:
    """What each adapter has to earn; `jobs` by the adapters' names."""

    prices: Prices
    catalogue: Catalogue
    jobs: Mapping[str, TrainingTime]

    def to_earn(self, adapter: str, mode: str) -> Decimal:
        """Nano-dollars that making the adapter and keeping it for a month cost, by the price list or by GPU time."""
        storage = self.catalogue.stored_bytes(adapter) * self.prices.storage_gb_month / _BYTES_PER_GB
        return storage * NANODOLLARS + self._training(adapter, mode)

    def _training(self, adapter: str, mode: str) -> Decimal:
        said, jobs = self.prices.training(adapter), self.jobs.get(adapter)
        if said is not None or jobs is None:
            return (said or Decimal(0)) * NANODOLLARS
        return Decimal(jobs.price_list_cost if mode == "price_list" else jobs.gpu_hour_cost)
