"""Two servers that share their accounts on a real PostgreSQL server."""

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from loramux_server.limits.account import Demand
from loramux_server.limits.accounts import LimitedDemand, LimitReached, Settlement
from loramux_server.limits.limit import Limit, Subject, SubjectKind
from loramux_server.limits.repository import LimitRepository
from loramux_server.limits.shared_accounts import SharedAccounts
from tests.helpers.postgresql import migrated_postgresql

pytestmark = pytest.mark.slow

SUBJECTS = [Subject(SubjectKind.KEY, "key_1"), Subject(SubjectKind.PROJECT, "default")]
LIMIT = Limit(tokens_per_day=1000, concurrent_requests=100)


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    with migrated_postgresql() as engine:
        yield engine


async def test_two_servers_never_admit_more_than_is_left(engine: sa.Engine) -> None:
    servers = [SharedAccounts(engine, LimitRepository(engine).open_account) for _ in range(2)]
    for server in servers:
        server.beat()
    outcomes = await asyncio.gather(*(_request(servers[number % 2], number) for number in range(60)))
    for server in servers:
        server.settle_ended()
    used = await servers[0].used(SUBJECTS[0])
    assert used is not None
    assert sum(outcomes) == 10  # each reserves 100 of 1000, and uses 10
    assert (used.day.tokens, used.holds) == (100, {})
    last = await asyncio.gather(*(_request(servers[number % 2], 100 + number, settle=False) for number in range(20)))
    assert sum(last) == 9


async def _request(server: SharedAccounts, number: int, *, settle: bool = True) -> bool:
    demand = Demand(requests=1, tokens=100)
    try:
        await server.take(str(number), [LimitedDemand(subject, LIMIT, demand) for subject in SUBJECTS])
    except LimitReached:
        return False
    if settle:
        server.settle(Settlement(str(number), SUBJECTS, 10, 0))
    return True
