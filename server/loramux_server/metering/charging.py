"""Computes the cost of each request: its tokens by the price list, and its share of the engine's time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from loramux_adapters.background_tasks import running_task
from loramux_server.metering.cost_allocation import ActiveRun, CostShare, EngineCostAllocator, EngineTime, StepWork
from loramux_server.metering.pricing import PriceSource
from loramux_server.metering.usage_record import Charge, Outcome, Route, UsageRecord

logger = logging.getLogger("loramux.metering")

CHARGE_INTERVAL_SECONDS = 0.1
"""Time between two allocations of the engine's cost: many steps of a small model, well before the ledger flushes."""


class ChargeSink(Protocol):
    """Receives every charge."""

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Record an ended request and its cost."""

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Record a period of engine time and the allocation of its cost."""


class ChargingMeter:
    """A Meter that charges each request once, within CHARGE_INTERVAL_SECONDS of its end, at the prices of that moment.

    Engine time is charged at the price of the moment in which it passes.
    """

    def __init__(
        self, prices: PriceSource, sinks: Sequence[ChargeSink], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._source, self._sinks, self._clock = prices, sinks, clock
        self._prices, self._weights = prices.current, prices.weights
        self._price_version = self._prices.version
        self._allocator = EngineCostAllocator(self._prices.nanodollars_per_hour, self._weights, clock())
        self._ended: list[UsageRecord] = []

    def start_run(self, cost_share: CostShare) -> ActiveRun:
        """Start to allocate engine time to `cost_share`."""
        return self._allocator.start_run(cost_share, self._clock())

    def count_step(self, works: Iterable[StepWork], timestamp: float) -> None:
        """Note the work of a step of the engine; see EngineCostAllocator.step."""
        self._allocator.step(works, timestamp, self._clock())

    def end_run(self, run: ActiveRun) -> None:
        """Stop to allocate engine time to a run; calling it again has no effect."""
        self._allocator.end_run(run, self._clock())

    def begin(self, route: Route) -> None:
        """Do nothing: a request costs nothing before it ends."""

    def record(self, record: UsageRecord) -> None:
        """Add an ended request, to be charged by the next `charge_ended`."""
        self._ended.append(record)

    def charge_ended(self) -> None:
        """Allocate the engine's cost, then charge the requests that have ended."""
        now = self._clock()
        engine_time = self._allocator.allocate(now)
        self._apply_price_changes(now)
        for sink in self._sinks:
            sink.record_engine_time(engine_time)
        ended, self._ended = self._ended, []
        for record in ended:
            self._charge_one(record)

    def _apply_price_changes(self, now: int) -> None:
        prices, weights = self._source.current, self._source.weights
        if prices is self._prices and weights == self._weights:
            return
        self._prices, self._weights, self._price_version = prices, weights, prices.version
        self._allocator.change_prices(prices.nanodollars_per_hour, weights, now)

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
        if record.outcome is Outcome.REFUSED:  # costs nothing at any price, so that it is not unpriced
            return Charge(0, record.cost_share.nanodollars, self._price_version)
        stats, adapter = record.stats, record.route.adapter if record.route else None
        token_cost = self._prices.token_cost(adapter, stats.input_tokens, stats.cached_tokens, stats.output_tokens)
        is_unpriced = record.cost_share.unpriced or not self._prices.has_gpu_hour_price
        return Charge(token_cost, None if is_unpriced else record.cost_share.nanodollars, self._price_version)
