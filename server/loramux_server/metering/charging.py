"""Computes the cost of each request: its tokens by the price list, and its share of the engine's time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from loramux_adapters.background_tasks import running_task
from loramux_server.metering.cost_allocation import CostShare, EngineCostAllocator, EngineTime, ProcessedTokens
from loramux_server.metering.pricing import Prices
from loramux_server.metering.usage_record import Charge, Route, UsageRecord

logger = logging.getLogger("loramux.metering")

CHARGE_INTERVAL_SECONDS = 0.1
"""Time between two allocations of the engine's cost: many steps of a small model, well before the ledger flushes."""
_WEIGHT_UNITS = 1000
"""Weights are fractions, and the allocator computes with integers."""


class ChargeSink(Protocol):
    """Receives every charge."""

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Record an ended request and its cost."""

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Record a period of engine time and the allocation of its cost."""


class ChargingMeter:
    """A Meter that charges each request once, within CHARGE_INTERVAL_SECONDS of its end."""

    def __init__(
        self, prices: Prices, sinks: Sequence[ChargeSink], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._prices, self._price_version, self._sinks, self._clock = prices, prices.version, sinks, clock
        prefill, decode = (round(weight * _WEIGHT_UNITS) for weight in (prices.prefill_weight, prices.decode_weight))
        self._allocator = EngineCostAllocator(prices.nanodollars_per_hour, prefill, decode, clock())
        self._ended: list[UsageRecord] = []

    @contextmanager
    def track_engine_time(
        self, cost_share: CostShare, processed_tokens: Callable[[], ProcessedTokens]
    ) -> Iterator[None]:
        """Allocate engine time to `cost_share` while the context is active, by `processed_tokens` (so far)."""
        run = self._allocator.start_run(cost_share, processed_tokens, self._clock())
        try:
            yield
        finally:
            self._allocator.end_run(run, self._clock())

    def begin(self, route: Route) -> None:
        """Do nothing: a request costs nothing before it ends."""

    def record(self, record: UsageRecord) -> None:
        """Add an ended request, to be charged by the next `charge_ended`."""
        self._ended.append(record)

    def charge_ended(self) -> None:
        """Allocate the engine's cost, then charge the requests that have ended."""
        engine_time = self._allocator.allocate(self._clock())
        for sink in self._sinks:
            sink.record_engine_time(engine_time)
        ended, self._ended = self._ended, []
        for record in ended:
            self._charge_one(record)

    def _charge_one(self, record: UsageRecord) -> None:
        try:
            charge = self._charge_of(record)
            for sink in self._sinks:
                sink.record_charge(record, charge)
        except Exception:  # an error in one request must not lose the records of the others
            logger.exception("The request %s could not be charged.", record.request_id)

    @asynccontextmanager
    async def charging(self) -> AsyncIterator[None]:
        """Charge periodically while the context is active, and once on exit."""
        try:
            async with running_task(self._charge_periodically()):
                yield
        finally:
            self.charge_ended()

    async def _charge_periodically(self) -> None:
        while True:
            await asyncio.sleep(CHARGE_INTERVAL_SECONDS)
            self.charge_ended()

    def _charge_of(self, record: UsageRecord) -> Charge:
        stats, adapter = record.stats, record.route.adapter if record.route else None
        token_cost = self._prices.token_cost(adapter, stats.input_tokens, stats.cached_tokens, stats.output_tokens)
        return Charge(token_cost, record.cost_share.nanodollars, self._price_version)
