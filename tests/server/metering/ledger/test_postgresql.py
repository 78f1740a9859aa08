"""The ledger on a real PostgreSQL server, with two concurrent writers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import sqlalchemy as sa

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.price_history import PriceHistory, PriceOrigin, PricesChangedError
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.ledger.usage_rows import usage_row
from loramux_server.metering.pricing import Prices
from tests.helpers.postgresql import migrated_postgresql
from tests.helpers.usage_records import CHARGE, HOUR, NOON, TONE, record

pytestmark = pytest.mark.slow

DAY = TimeRange(NOON - 12 * HOUR, NOON + 12 * HOUR)


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    with migrated_postgresql() as engine:
        yield engine


def test_two_processes_write_and_each_sees_the_sum(engine: sa.Engine) -> None:
    def keep(repository: LedgerRepository) -> None:
        for number in range(20):
            records = [usage_row(record(NOON + number * 60, request_id=f"req_{number}"), CHARGE)]
            repository.write(records, {int(NOON // 60): EngineTime(1.0 * number, 0.5, 3, 4)})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(keep, (LedgerRepository(engine), LedgerRepository(engine))))
    reader = LedgerReader(engine)
    (usage,) = reader.usage(DAY, GroupBy.ADAPTER).values()
    assert (usage.requests, usage.sums["output_tokens"]) == (40, 440)
    assert usage.distributions().measure("first_token").count == 40
    edges = reader.usage(TimeRange(NOON - 1, NOON + 61), GroupBy.VERSION, {"adapter": TONE.adapter or ""})
    assert [found.requests for found in edges.values()] == [4]
    assert reader.engine_time(DAY) == EngineTime(38.0, 1.0, 6, 8)


def test_servers_that_set_prices_at_once_do_so_one_after_the_other(engine: sa.Engine) -> None:
    history = PriceHistory(engine)
    history.add(Prices(), PriceOrigin.SETTINGS, None, NOON)

    def change(price: int) -> bool:
        try:
            history.add(Prices(gpu_hour=Decimal(price)), PriceOrigin.SET, "key_1", NOON + 1, expected=Prices().version)
        except PricesChangedError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(change, range(4))) == 1
    history.add(Prices(), PriceOrigin.RESET, None, NOON + 2)
    assert [each.origin for each in history.changes(9)] == ["reset", "set", "settings"]
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM price_lists")).scalar() == 2


def test_expired_records_are_deleted(engine: sa.Engine) -> None:
    LedgerRepository(engine).write([usage_row(record(0.0), CHARGE)], {0: EngineTime(1.0, 0.0, 0, 1)})
    assert LedgerRepository(engine).delete_expired(HOUR, HOUR) == 1
    assert LedgerReader(engine).usage(TimeRange(0, HOUR), GroupBy.ROUTE) == {}
