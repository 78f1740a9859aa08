"""Wires metering together: charges requests, writes the ledger, and sends traces."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from loramux_server.metering.charging import ChargeSink, ChargingMeter
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.ledger.writer import LedgerLimits, LedgerWriter
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.prometheus import PrometheusMetrics

if TYPE_CHECKING:
    from loramux_server.metering.traces import RequestTracer


class UsageRecorder:
    """Charges requests with `meter`, and records them while the context of `recording` is active.

    `sinks` receive every charge as well.
    """

    def __init__(
        self,
        prices: CurrentPrices,
        limits: LedgerLimits,
        database: sa.Engine,
        metrics: PrometheusMetrics,
        traces_endpoint: str | None,
        sinks: Sequence[ChargeSink] = (),
    ) -> None:
        self.prices, self._repository = prices, LedgerRepository(database)
        self._writer = LedgerWriter(self._repository, limits, metrics)
        self._tracer = _otlp_tracer(traces_endpoint) if traces_endpoint else None
        self.meter = ChargingMeter(prices, tuple(filter(None, (metrics, self._writer, self._tracer, *sinks))))
        self.reader = LedgerReader(database)
        self.training_costs = TrainingCosts(database, prices)

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Record requests; on exit, write those that have ended, unless the database is unreachable."""
        async with self.prices.following():
            self._writer.start()
            try:
                async with self.meter.charging():
                    yield
            finally:
                await asyncio.to_thread(self._writer.close)
                if self._tracer:
                    await asyncio.to_thread(self._tracer.close)


def _otlp_tracer(endpoint: str) -> "RequestTracer":
    # Imported only where it is used: OpenTelemetry takes a third of a second, and most servers send no traces.
    from loramux_server.metering.traces import otlp_tracer

    return otlp_tracer(endpoint)
