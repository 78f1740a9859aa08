"""The accounts of the subjects, in memory: takes what a request demands from all of its subjects, or from none.

A server that shares its database with others uses `shared_accounts` instead.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from loramux_adapters.errors import StoreError
from loramux_server.limits.account import Account, Demand, Excess, Standing
from loramux_server.limits.limit import Limit, Subject

logger = logging.getLogger("loramux.limits")

OpenAccount = Callable[[Subject, float], Account]
"""Returns a subject's account with what the ledger knows, at a Unix time; blocks on the database."""


class LimitedDemand(NamedTuple):
    """What a request demands from one subject, and the limits of that subject."""

    subject: Subject
    limit: Limit
    demand: Demand


class LimitReached(Exception):  # noqa: N818 - what happens, which is no fault
    """A demand exceeds a limit of a subject; nothing was taken."""

    def __init__(self, subject: Subject, excess: Excess, standings: Sequence[Standing]) -> None:
        super().__init__(f"{subject}: {excess.measure}")
        self.subject, self.excess, self.standings = subject, excess, standings


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a request: what it has used."""

    request: str
    subjects: Sequence[Subject]
    tokens: int
    nanodollars: int


class Accounts(Protocol):
    """Takes and settles; see MemoryAccounts."""

    async def take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
        """Reserve all demands, or raise LimitReached and reserve none; returns what is left per minute."""

    def settle(self, settlement: Settlement) -> None:
        """Replace what a request has reserved by what it has used."""

    def used(self, subject: Subject) -> Awaitable[Account | None]:
        """Return the account of a subject, None if it has none yet."""

    def forget(self, subjects: Callable[[Subject], bool]) -> Awaitable[None]:
        """Drop accounts, because their limits were removed; the next request opens them from the ledger."""


def take_all(
    accounts: Mapping[Subject, Account], request: str, server: str, demands: Iterable[LimitedDemand], now: float
) -> list[Standing]:
    """Reserve all demands, or none.

    Raises:
        LimitReached: a demand exceeds a limit.
    """
    demands = list(demands)
    for subject, limit, demand in demands:
        account = accounts[subject]
        account.advance(limit, now)
        if excess := account.excess(limit, demand, now):
            raise LimitReached(subject, excess, _standings(accounts, demands))
    for subject, _, demand in demands:
        accounts[subject].take(request, server, demand)
    return _standings(accounts, demands)


def _standings(accounts: Mapping[Subject, Account], demands: Iterable[LimitedDemand]) -> list[Standing]:
    return [standing for subject, limit, _ in demands for standing in accounts[subject].standings(limit)]


class MemoryAccounts:
    """The accounts of a server that shares its database with no other.

    A restart forgets the allowances per minute, not the budgets: an account starts with what the ledger has.
    """

    def __init__(self, open_account: OpenAccount, clock: Callable[[], float] = time.time) -> None:
        self._open, self._clock = open_account, clock
        self._accounts: dict[Subject, Account] = {}

    async def take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
        """Reserve all demands, or none.

        Raises:
            LimitReached: a demand exceeds a limit.
        """
        for subject in {demand.subject for demand in demands}.difference(self._accounts):
            opened = await self._opened(subject)
            self._accounts.setdefault(subject, opened)  # another request may have opened it meanwhile
        # Nothing is awaited from here on, so that no other request can come between the check and the reservation.
        return take_all(self._accounts, request, "", demands, self._clock())

    async def _opened(self, subject: Subject) -> Account:
        try:
            return await asyncio.to_thread(self._open, subject, self._clock())
        except StoreError as error:  # serving does not depend on the ledger
            logger.warning("%s The budgets of %s start at 0.", error, subject.kind)
            return Account()

    def settle(self, settlement: Settlement) -> None:
        """Replace what a request has reserved by what it has used."""
        now = self._clock()
        for subject in settlement.subjects:
            if account := self._accounts.get(subject):
                account.turn(now)
                account.settle(settlement.request, settlement.tokens, settlement.nanodollars)

    async def used(self, subject: Subject) -> Account | None:
        """Return the account of a subject, None if it has none yet."""
        account = self._accounts.get(subject)
        if account is not None:
            account.turn(self._clock())
        return account

    async def forget(self, subjects: Callable[[Subject], bool]) -> None:
        """Drop accounts; the next request opens them from the ledger."""
        self._accounts = {subject: account for subject, account in self._accounts.items() if not subjects(subject)}
