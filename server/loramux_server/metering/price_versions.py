"""The prices that are in force, which may change at run time, and the weights that are measured."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from pydantic import ValidationError

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_server.metering.ledger.calibrations import Calibration, Calibrations
from loramux_server.metering.ledger.price_history import PriceChange, PriceHistory, PriceOrigin
from loramux_server.metering.pricing import Prices

logger = logging.getLogger("loramux.metering")

REFRESH_SECONDS = 2.0
"""Time between two looks at the database, where another server may have changed the prices."""


class CurrentPrices:
    """A PriceSource with the newest price list of the database.

    Prices that were set at run time stay in force until they are set again or reset, whatever the settings say. Without
    such, the prices of the settings are in force: those of the server that started last with others than before.
    Weights that the price list does not set are the measured ones, if there are any.
    """

    def __init__(
        self,
        history: PriceHistory,
        calibrations: Calibrations,
        settings: Prices,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history, self._calibrations, self._settings, self._clock = history, calibrations, settings, clock
        self.current = settings
        """The price list that is in force."""
        self.weights = settings.weights
        """Those of the price list if it sets any, or else the measured ones, or else its defaults."""
        self.change: PriceChange | None = None
        """The change that put it into force."""
        self.calibration: Calibration | None = None
        """The measured weights."""

    def start(self) -> None:
        """Put the settings' prices into force if they are new, unless prices were set; blocks on the database.

        Raises:
            StoreError: the database can't be read or written.
        """
        newest = self._history.newest()
        if newest is None or (newest.origin != PriceOrigin.SET and newest.version != self._settings.version):
            self._history.add(self._settings, PriceOrigin.SETTINGS, None, self._clock())
        self.refresh()

    def set(self, prices: Prices, actor: str | None, expected: str | None = None) -> None:
        """Put these prices into force, on all servers that share the database; blocks on it.

        Raises:
            PricesChangedError: another version than `expected` is in force.
            StoreError: the database can't be written.
        """
        self._history.add(prices, PriceOrigin.SET, actor, self._clock(), expected)
        self.refresh()

    def reset(self, actor: str | None) -> None:
        """Put the prices of this server's settings into force; blocks on the database.

        Raises:
            StoreError: the database can't be written.
        """
        self._history.add(self._settings, PriceOrigin.RESET, actor, self._clock())
        self.refresh()

    def history(self, limit: int) -> Sequence[PriceChange]:
        """Return the newest changes, newest first; blocks on the database.

        Raises:
            StoreError: the database can't be read.
        """
        return self._history.changes(limit)

    def calibrate(self, calibration: Calibration) -> None:
        """Save measured weights; blocks on the database.

        Raises:
            StoreError: the database can't be written.
        """
        self._calibrations.save(calibration)
        self.refresh()

    def refresh(self) -> None:
        """Read the newest prices and weights; blocks on the database.

        Raises:
            StoreError: the database can't be read.
        """
        newest, self.calibration = self._history.newest(), self._calibrations.newest()
        if newest is not None and (self.change is None or newest.number > self.change.number):
            self.change, self.current = newest, self._parse(newest)
        measured = self.calibration if self.current.has_default_weights else None
        self.weights = measured.weights if measured else self.current.weights

    def _parse(self, change: PriceChange) -> Prices:
        """Return the prices of a change, or the old ones if a newer release wrote it."""
        if change.version == self._settings.version:
            return self._settings
        try:
            return Prices.model_validate(change.prices)
        except ValidationError:
            logger.exception("The prices of version %s can't be read, and the old ones stay.", change.version)
            return self.current

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow changes by other servers while the context is active."""
        await asyncio.to_thread(self.start)
        async with running_task(self._refresh_periodically()):
            yield

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except StoreError as error:
                logger.warning("%s The old ones stay.", error)
