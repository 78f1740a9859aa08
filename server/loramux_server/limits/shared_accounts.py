"""The accounts of servers that share a database: a row per subject, locked while a request is checked and reserved."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.dialects import postgresql, sqlite

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_server.limits.account import Account, Standing
from loramux_server.limits.accounts import LimitedDemand, MemoryAccounts, OpenAccount, Settlement, take_all
from loramux_server.limits.limit import Subject, SubjectKind
from loramux_server.limits.tables import limit_accounts, limit_servers
from loramux_server.metering.ledger.repository import store_errors, upsert

logger = logging.getLogger("loramux.limits")

HEARTBEAT_SECONDS, DEAD_SECONDS = 5.0, 30.0
"""A server whose heartbeat is older has no running requests: its reservations end."""
SETTLE_SECONDS = 0.05
"""Pause between two writes of settlements, of all requests that ended meanwhile."""

_T = TypeVar("_T")
_ACCOUNT = TypeAdapter(Account)


class SharedAccounts:
    """Accounts in the database. While it is unreachable, each server limits by itself, with allowances of its own."""

    def __init__(self, database: sa.Engine, open_account: OpenAccount, clock: Callable[[], float] = time.time) -> None:
        self._database, self._open, self._clock = database, open_account, clock
        self._own = MemoryAccounts(lambda *_: Account(), clock)
        self._server = secrets.token_hex(8)
        self._ended: list[Settlement] = []
        self._seen: Mapping[str, float] = {}
        """When each server was seen, as of the last look."""

    async def take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
        """Reserve all demands, or none.

        Raises:
            LimitReached: a demand exceeds a limit.
        """
        try:
            return await _to_its_end(asyncio.to_thread(self._take, self._name(request), demands))
        except StoreError as error:
            logger.warning("%s This server limits requests by itself.", error)
            return await self._own.take(request, demands)

    def _name(self, request: str) -> str:
        """Return a name for a request that no other server uses."""
        return f"{self._server}-{request}"

    def _take(self, request: str, demands: Sequence[LimitedDemand]) -> Sequence[Standing]:
        subjects, now = sorted({demand.subject for demand in demands}), self._clock()
        with store_errors("The accounts of limits can't be reached."):
            while True:
                with self._database.begin() as connection:
                    accounts = _lock(connection, subjects)
                    if len(accounts) == len(subjects):
                        self._end_dead(connection, accounts.values(), now)
                        standings = take_all(accounts, request, self._server, demands, now)
                        _store(connection, accounts)
                        return standings
                self._open_all([subject for subject in subjects if subject not in accounts], now)

    def _open_all(self, subjects: Sequence[Subject], now: float) -> None:
        """Create accounts; another server may do so at the same time."""
        rows = [_row(subject, self._open(subject, now)) for subject in subjects]
        with self._database.begin() as connection:
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(limit_accounts)
            connection.execute(insert.on_conflict_do_nothing(), rows)

    def _end_dead(self, connection: sa.Connection, accounts: Collection[Account], now: float) -> None:
        """End the reservations of servers that are not seen any more."""
        servers = {hold.server for account in accounts for hold in account.holds.values()}
        if not all(self._is_live(server, now) for server in servers):
            self._seen = _seen(connection)
            for account in accounts:
                holds = account.holds.items()
                account.holds = {name: hold for name, hold in holds if self._is_live(hold.server, now)}

    def _is_live(self, server: str, now: float) -> bool:
        return server in self._seen and self._seen[server] >= now - DEAD_SECONDS

    def settle(self, settlement: Settlement) -> None:
        """Replace what a request has reserved by what it has used, within SETTLE_SECONDS."""
        self._own.settle(settlement)
        self._ended.append(settlement)

    def settle_ended(self) -> None:
        """Write the settlements.

        Raises:
            StoreError: the database can't be written; the settlements wait.
        """
        ended, now = self._ended, self._clock()
        self._ended = []
        try:
            with store_errors("Used tokens can't be settled."), self._database.begin() as connection:
                accounts = _lock(connection, sorted({subject for one in ended for subject in one.subjects}))
                for settlement in ended:
                    for account in (accounts[subject] for subject in settlement.subjects if subject in accounts):
                        account.turn(now)
                        account.settle(self._name(settlement.request), settlement.tokens, settlement.nanodollars)
                _store(connection, accounts)
        except StoreError:
            self._ended = ended + self._ended
            raise

    async def used(self, subject: Subject) -> Account | None:
        """Return the account of a subject, None if it has none yet.

        Raises:
            StoreError: the database can't be read.
        """
        return await asyncio.to_thread(self._used, subject)

    def _used(self, subject: Subject) -> Account | None:
        with store_errors("The accounts of limits can't be reached."), self._database.connect() as connection:
            rows = connection.execute(_select([subject])).all()
        for row in rows:
            account = _ACCOUNT.validate_python(row.account)
            account.turn(self._clock())
            return account
        return None

    async def forget(self, subjects: Callable[[Subject], bool]) -> None:
        """Drop accounts; the next request opens them from the ledger.

        Raises:
            StoreError: the database can't be written.
        """
        await asyncio.to_thread(self._forget, subjects)

    def _forget(self, subjects: Callable[[Subject], bool]) -> None:
        columns = limit_accounts.c
        with store_errors("The accounts of limits can't be reached."), self._database.begin() as connection:
            known = [_subject(row) for row in connection.execute(sa.select(columns.kind, columns.name))]
            for subject in filter(subjects, known):
                connection.execute(limit_accounts.delete().where(_is(subject)))

    def beat(self) -> None:
        """Tell the other servers that this one lives.

        Raises:
            StoreError: the database can't be written.
        """
        now = self._clock()
        with store_errors("The accounts of limits can't be reached."), self._database.begin() as connection:
            upsert(connection, limit_servers, [{"server": self._server, "seen_at": now}])
            connection.execute(limit_servers.delete().where(limit_servers.c.seen_at < now - DEAD_SECONDS))
            self._seen = _seen(connection)

    @asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        """Share the accounts while the context is active; on exit, settle what has ended.

        Raises:
            StoreError: the database can't be written.
        """
        await asyncio.to_thread(self.beat)
        try:
            async with (
                running_task(_repeat(self.beat, HEARTBEAT_SECONDS)),
                running_task(_repeat(self._settle_if_any, SETTLE_SECONDS)),
            ):
                yield
        finally:
            await asyncio.to_thread(self._settle_if_any)

    def _settle_if_any(self) -> None:
        if self._ended:
            self.settle_ended()


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`; a caller that is cancelled waits, or its reservation could follow its settlement."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _repeat(step: Callable[[], None], seconds: float) -> None:
    """Call `step` periodically in a thread; the database may be unreachable for a while."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(step)
        except StoreError as error:
            logger.warning("%s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _lock(connection: sa.Connection, subjects: Sequence[Subject]) -> dict[Subject, Account]:
    """Return the accounts, locked in the order of `subjects` until the transaction ends."""
    if connection.dialect.name == "sqlite":  # it has no row locks, and locks the database at the first write
        connection.execute(limit_servers.delete().where(sa.false()))
    rows = connection.execute(_select(subjects).with_for_update())
    return {_subject(row): _ACCOUNT.validate_python(row.account) for row in rows}


def _seen(connection: sa.Connection) -> dict[str, float]:
    """Return when each server was last seen."""
    return {row.server: row.seen_at for row in connection.execute(sa.select(limit_servers))}


def _store(connection: sa.Connection, accounts: dict[Subject, Account]) -> None:
    upsert(connection, limit_accounts, [_row(subject, account) for subject, account in accounts.items()])


def _select(subjects: Sequence[Subject]) -> sa.Select[tuple[str, str, object]]:
    columns = limit_accounts.c
    return (
        sa.select(columns.kind, columns.name, columns.account)
        .where(sa.or_(sa.false(), *(_is(subject) for subject in subjects)))
        .order_by(columns.kind, columns.name)
    )


def _is(subject: Subject) -> sa.ColumnElement[bool]:
    return sa.and_(limit_accounts.c.kind == subject.kind.value, limit_accounts.c.name == subject.name)


def _subject(row: Any) -> Subject:
    return Subject(SubjectKind(row.kind), row.name)


def _row(subject: Subject, account: Account) -> dict[str, object]:
    content = _ACCOUNT.dump_python(account, mode="json")
    return {"kind": subject.kind.value, "name": subject.name, "account": content}
