"""Accounts in memory and in a shared database: all or nothing, never more than the limit for requests at once."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_server.limits.account import Account, Demand, Window, day_number, month_number
from loramux_server.limits.accounts import Accounts, LimitedDemand, LimitReached, MemoryAccounts, Settlement
from loramux_server.limits.limit import Limit, Subject, SubjectKind
from loramux_server.limits.repository import LimitRepository
from loramux_server.limits.shared_accounts import DEAD_SECONDS, SharedAccounts
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.usage_rows import usage_row
from tests.helpers.usage_records import CHARGE, HOUR, NOON, TONE, database, record

KEY, PROJECT = Subject(SubjectKind.KEY, "key_1"), Subject(SubjectKind.PROJECT, "default")
ADAPTER = Subject(SubjectKind.ADAPTER, TONE.adapter or "")
LIMIT = Limit(tokens_per_day=100)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def new_account(_: Subject, now: float) -> Account:
    return Account(day=Window(day_number(now)), month=Window(month_number(now)))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture(params=["memory", "shared"])
def accounts(request: pytest.FixtureRequest, engine: sa.Engine) -> Accounts:
    return MemoryAccounts(new_account, Clock()) if request.param == "memory" else shared(engine)


def shared(engine: sa.Engine, clock: Clock | None = None) -> SharedAccounts:
    """Return the accounts of a server that has just been seen."""
    accounts = SharedAccounts(engine, new_account, clock or Clock())
    accounts.beat()
    return accounts


async def admitted(accounts: Accounts, request: str, *demands: tuple[Subject, Limit, Demand]) -> bool:
    try:
        await accounts.take(request, [LimitedDemand(*demand) for demand in demands])
    except LimitReached:
        return False
    return True


async def test_of_many_requests_at_once_only_those_within_the_limit_are_admitted(accounts: Accounts) -> None:
    asked = (admitted(accounts, str(number), (KEY, LIMIT, Demand(tokens=30))) for number in range(8))
    assert sum(await asyncio.gather(*asked)) == 3


async def test_a_demand_that_one_subject_refuses_takes_from_none(accounts: Accounts) -> None:
    strict = Limit(tokens_per_day=10)
    assert not await admitted(accounts, "1", (KEY, LIMIT, Demand(tokens=30)), (PROJECT, strict, Demand(tokens=30)))
    assert await admitted(accounts, "2", (KEY, LIMIT, Demand(tokens=100)))


async def test_two_servers_share_what_is_left(engine: sa.Engine) -> None:
    one, other = shared(engine), shared(engine)
    assert await admitted(one, "1", (KEY, LIMIT, Demand(tokens=70)))
    assert not await admitted(other, "1", (KEY, LIMIT, Demand(tokens=40)))
    one.settle(Settlement("1", [KEY], 20, 0))
    one.settle_ended()
    assert await admitted(other, "1", (KEY, LIMIT, Demand(tokens=80)))
    used = await one.used(KEY)
    assert used is not None
    assert (used.day.tokens, sum(hold.tokens for hold in used.holds.values())) == (20, 80)


async def test_requests_of_two_servers_are_told_apart(engine: sa.Engine) -> None:
    for server in (shared(engine), shared(engine)):
        assert await admitted(server, "1", (KEY, LIMIT, Demand(tokens=10)))
    used = await server.used(KEY)
    assert used is not None
    assert [hold.tokens for hold in used.holds.values()] == [10, 10]


async def test_the_reservations_of_a_server_that_died_end(engine: sa.Engine) -> None:
    clock = Clock()
    one, other = shared(engine, clock), shared(engine, clock)
    limit = Limit(concurrent_requests=1)
    assert await admitted(one, "1", (KEY, limit, Demand(requests=1)))
    clock.now += DEAD_SECONDS - 1
    other.beat()
    assert not await admitted(other, "1", (KEY, limit, Demand(requests=1)))
    clock.now += 2
    assert await admitted(other, "1", (KEY, limit, Demand(requests=1)))


async def test_a_request_that_is_cancelled_while_it_reserves_ends_after_its_reservation(
    engine: sa.Engine,
) -> None:
    accounts = shared(engine)
    assert await admitted(accounts, "1", (KEY, LIMIT, Demand(tokens=10)))
    entered, leave = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        entered.set()
        leave.wait(10)

    sa.event.listen(engine, "begin", wait)
    asking = asyncio.create_task(admitted(accounts, "2", (KEY, LIMIT, Demand(tokens=10))))
    await asyncio.to_thread(entered.wait, 10)
    asking.cancel()
    await asyncio.sleep(0)
    assert not asking.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    used = await accounts.used(KEY)
    assert used is not None
    assert len(used.holds) == 2


async def test_without_the_database_each_server_limits_by_itself(engine: sa.Engine) -> None:
    accounts = shared(engine)
    rename = "ALTER TABLE {} RENAME TO {}".format
    with engine.begin() as connection:
        connection.execute(sa.text(rename("limit_accounts", "away")))
    assert await admitted(accounts, "1", (KEY, LIMIT, Demand(tokens=70)))
    assert not await admitted(accounts, "2", (KEY, LIMIT, Demand(tokens=70)))
    accounts.settle(Settlement("1", [KEY], 5, 0))
    with pytest.raises(StoreError):
        accounts.settle_ended()
    assert await admitted(accounts, "3", (KEY, LIMIT, Demand(tokens=70)))
    with engine.begin() as connection:
        connection.execute(sa.text(rename("away", "limit_accounts")))
    assert await admitted(accounts, "4", (KEY, LIMIT, Demand(tokens=1)))
    accounts.settle_ended()
    used = await accounts.used(KEY)
    assert used is not None
    assert used.day.tokens == 5


async def test_a_budget_starts_with_what_the_ledger_has_of_this_day_and_month(engine: sa.Engine) -> None:
    rows = [usage_row(record(NOON - days * 24 * HOUR, project="default"), CHARGE) for days in (0, 1, 2 / 3, 40)]
    rows.append(usage_row(record(NOON, key_id="key_2", project="other", route=None), CHARGE))
    LedgerRepository(engine).write(rows, {})
    for subject in (KEY, PROJECT, ADAPTER):
        account = LimitRepository(engine).open_account(subject, NOON)
        assert (account.day.tokens, account.day.nanodollars) == (42, 2000)
        assert (account.month.tokens, account.month.nanodollars) == (63, 3000)
    accounts = MemoryAccounts(LimitRepository(engine).open_account, Clock())
    assert not await admitted(accounts, "1", (KEY, Limit(tokens_per_day=51), Demand(tokens=10)))
    assert await admitted(accounts, "1", (KEY, Limit(tokens_per_day=52), Demand(tokens=10)))


async def test_an_unreadable_ledger_stops_no_request() -> None:
    def fail(_: Subject, __: float) -> Account:
        raise StoreError("The usage ledger can't be read.")

    assert await admitted(MemoryAccounts(fail, Clock()), "1", (KEY, LIMIT, Demand(tokens=1)))


async def test_forgotten_accounts_are_opened_again(accounts: Accounts) -> None:
    assert await admitted(accounts, "1", (KEY, LIMIT, Demand(tokens=100)))
    await accounts.forget(lambda subject: subject == PROJECT)
    assert not await admitted(accounts, "2", (KEY, LIMIT, Demand(tokens=100)))
    await accounts.forget(lambda subject: subject == KEY)
    assert await admitted(accounts, "3", (KEY, LIMIT, Demand(tokens=100)))
