"""Wires the limits of a server: their definitions, the accounts, and the limiter of requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa

from loramux_server.limits.accounts import MemoryAccounts
from loramux_server.limits.limiter import Limiter
from loramux_server.limits.repository import LimitRepository
from loramux_server.limits.service import LimitService, by_subject
from loramux_server.limits.shared_accounts import SharedAccounts
from loramux_server.metering.pricing import PriceSource
from loramux_server.metering.usage_record import Route, RunStats
from loramux_server.settings import LimitSettings


class ServerLimits:
    """The limits of a server, in force while the context of `running` is active.

    Servers with one PostgreSQL database share the accounts; with SQLite, a server has its own, in memory.
    """

    def __init__(self, settings: LimitSettings, database: sa.Engine, prices: PriceSource) -> None:
        repository = LimitRepository(database)
        is_shared = database.dialect.name != "sqlite"
        self._shared = SharedAccounts(database, repository.open_account) if is_shared else None
        self.accounts = self._shared or MemoryAccounts(repository.open_account)
        self.service = LimitService(repository, self.accounts, by_subject(settings.by_kind))
        self.limiter = Limiter(self.service.of, self.accounts, prices, settings.unset_max_tokens)
        self._prices = prices

    def price_of(self, route: Route, stats: RunStats) -> int | None:
        """Return the cost of a request by the price list in nano-dollars, None if it has no price."""
        tokens = (stats.input_tokens, stats.cached_tokens, stats.output_tokens)
        return self._prices.current.token_cost(route.adapter, *tokens)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow changes of limits, and share the accounts with other servers.

        Raises:
            StoreError: the database can't be read.
        """
        async with self.service.following():
            if self._shared is None:
                yield
                return
            async with self._shared.sharing():
                yield
