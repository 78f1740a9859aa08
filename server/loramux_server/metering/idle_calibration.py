"""Measures the weights of input and output tokens once, when the server has been idle for a while."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_server.metering.ledger.calibrations import Calibration
from loramux_server.metering.price_versions import CurrentPrices

logger = logging.getLogger("loramux.metering")

CHECK_SECONDS = 1.0
MAX_FAILURES = 3
"""Measurements without a usable result after which no further one is tried."""


class IdleCalibration:
    """Calls `measure` after `idle_seconds` without requests, unless the weights are known; a request aborts it.

    `is_busy` returns whether anything runs in the engine.
    """

    def __init__(
        self,
        measure: Callable[[], Awaitable[Calibration | None]],
        prices: CurrentPrices,
        is_busy: Callable[[], bool],
        idle_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure, self._prices, self._is_busy, self._clock = measure, prices, is_busy, clock
        self._idle_seconds, self._idle_since = idle_seconds, clock()
        self._measuring: asyncio.Task[Calibration | None] | None = None
        self._failures = 0

    def request_started(self) -> None:
        """Abort a measurement, and wait for the next idle time."""
        self._idle_since = self._clock()
        if self._measuring is not None:
            self._measuring.cancel()

    async def check(self) -> None:
        """Measure if it is time to."""
        now = self._clock()
        if self._is_busy():
            self._idle_since = now
        elif self._is_needed and now - self._idle_since >= (self._idle_seconds or 0):
            await self._try_to_measure()
            self._idle_since = self._clock()

    @property
    def _is_needed(self) -> bool:
        is_open = self._prices.calibration is None and self._prices.current.has_default_weights
        return is_open and self._idle_seconds is not None and self._failures < MAX_FAILURES

    async def _try_to_measure(self) -> None:
        self._measuring = asyncio.ensure_future(self._measure())
        try:
            await asyncio.wait({self._measuring})
            if self._measuring.cancelled():  # by a request
                return
            await self._save(self._measuring.result())
        except Exception:  # of the engine, which other tasks report too
            self._failures += 1
            logger.exception("The weights of input and output tokens could not be measured.")
        finally:
            self._measuring.cancel()
            self._measuring = None

    async def _save(self, calibration: Calibration | None) -> None:
        if calibration is None:
            self._failures += 1
            return
        try:
            await asyncio.to_thread(self._prices.calibrate, calibration)
        except StoreError as error:
            self._failures += 1
            logger.warning("The measured weights are not kept: %s", error)
        else:
            logger.info("An output token weighs %.2f input tokens on this machine.", calibration.decode_weight)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check periodically while the context is active."""
        async with running_task(self._check_periodically()):
            yield

    async def _check_periodically(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()
