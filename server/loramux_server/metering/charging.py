"""What every request costs: its tokens by the price list, and its share of the engine's time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Protocol

from loramux_server.metering.cost_allocation import EngineBill, EngineTime, Share, Work
from loramux_server.metering.pricing import Prices
from loramux_server.metering.usage_record import Charge, Route, UsageRecord

logger = logging.getLogger("loramux.accounts")

SETTLE_SECONDS = 0.1
"""How often the engine's time is shared out: many steps of a small model, and soon enough for the ledger."""
_WEIGHT_UNITS = 1000
"""Weights are fractions, and the bill counts in whole numbers."""


class Sink(Protocol):
    """Told of everything that was charged."""

    def charged(self, record: UsageRecord, charge: Charge) -> None:
        """A request is over, and what it costs is known."""

    def passed(self, engine_time: EngineTime) -> None:
        """Some time has passed, and was shared among the requests or was idle."""


class Accounts:
    """A Meter that charges each request once, within SETTLE_SECONDS of its end, and tells the sinks."""

    def __init__(self, prices: Prices, sinks: Sequence[Sink], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._prices, self._price_version, self._sinks, self._clock = prices, prices.version, sinks, clock
        prefill, decode = (round(weight * _WEIGHT_UNITS) for weight in (prices.prefill_weight, prices.decode_weight))
        self._bill = EngineBill(prices.nanodollars_per_hour, prefill, decode, clock())
        self._ended: list[UsageRecord] = []

    @contextmanager
    def in_engine(self, share: Share, work: Callable[[], Work]) -> Iterator[None]:
        """Bill the engine's time to `share` while the context lasts; `work` tells, when asked, what was done."""
        stay = self._bill.enter(share, work, self._clock())
        try:
            yield
        finally:
            self._bill.leave(stay, self._clock())

    def begin(self, route: Route) -> None:
        """A request has begun: nothing is owed for that."""

    def record(self, record: UsageRecord) -> None:
        """Take a request that is over; it is charged at the next settlement."""
        self._ended.append(record)

    def settle(self) -> None:
        """Share out the engine's time, and hand on what is charged now."""
        engine_time = self._bill.settle(self._clock())
        for sink in self._sinks:
            sink.passed(engine_time)
        ended, self._ended = self._ended, []
        for record in ended:
            self._hand_on(record)

    def _hand_on(self, record: UsageRecord) -> None:
        try:
            charge = self._charge(record)
            for sink in self._sinks:
                sink.charged(record, charge)
        except Exception:  # one request that can't be charged must not cost the others their records
            logger.exception("The request %s could not be charged.", record.request_id)

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[None]:
        """Settle now and then while the context lasts, and once more at its end."""
        settling = asyncio.create_task(self._keep_settled())
        try:
            yield
        finally:
            settling.cancel()
            with suppress(asyncio.CancelledError):
                await settling
            self.settle()

    async def _keep_settled(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self.settle()

    def _charge(self, record: UsageRecord) -> Charge:
        facts, adapter = record.facts, record.route.adapter if record.route else None
        by_tokens = self._prices.cost(adapter, facts.input_tokens, facts.cached_tokens, facts.output_tokens)
        return Charge(by_tokens, record.share.nanodollars, self._price_version)
