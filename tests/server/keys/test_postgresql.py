"""Servers that change keys at the same time on a real PostgreSQL server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from loramux_server.auth import Scope
from loramux_server.errors import InvalidRequest
from loramux_server.keys.models import KeyGrant, stored_secret
from loramux_server.keys.repository import KeyRepository
from loramux_server.keys.service import ApiKeys
from tests.helpers.postgresql import migrated_postgresql

pytestmark = pytest.mark.slow

SCOPES = frozenset({Scope.INFER})


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    with migrated_postgresql() as engine:
        yield engine


def test_a_reader_never_misses_a_change_that_was_made_meanwhile(engine: sa.Engine) -> None:
    writers = [ApiKeys(KeyRepository(engine)) for _ in range(4)]
    reader = ApiKeys(KeyRepository(engine))

    def change(number: int) -> str:
        keys = writers[number % len(writers)]
        issued = keys.create(KeyGrant(f"app-{number}", SCOPES), "root")
        if number % 2:
            keys.revoke(issued.key.id, "root")
        else:
            issued = keys.rotate(issued.key.id, 0, "root")
        reader.refresh()
        return issued.secret

    with ThreadPoolExecutor(8) as threads:
        secrets = list(threads.map(change, range(40)))
    found = [reader.lookup.find(stored_secret(secret, 0).digest) is not None for secret in secrets]
    assert found == [number % 2 == 0 for number in range(40)]


def test_of_two_organisations_that_take_a_project_at_once_one_gets_it(engine: sa.Engine) -> None:
    def take(organisation: str) -> bool:
        try:
            ApiKeys(KeyRepository(engine)).create(KeyGrant("app", SCOPES, "shop", organisation), "root")
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(take, [f"org-{number}" for number in range(8)]))
    assert sum(outcomes) == 1


async def test_the_use_of_keys_is_written_by_two_servers(engine: sa.Engine) -> None:
    keys, other = (ApiKeys(KeyRepository(engine)) for _ in range(2))
    issued = keys.create(KeyGrant("used", SCOPES), "root")
    other.refresh()
    for server in (keys, other):
        assert server.lookup.find(issued.key.secrets[0].digest) is not None
        await server.write_use()
    assert keys.get(issued.key.id).last_used_at is not None
