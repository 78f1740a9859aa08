"""The ledger writer writes every record once, whatever the state of the database."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError, OperationalError

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.tables import engine_minutes, usage_hours, usage_records
from loramux_server.metering.ledger.writer import LedgerLimits, LedgerWriter
from tests.helpers.usage_records import CHARGE, HOUR, NOON, RecordingLedgerObserver, database, record

FAST = LedgerLimits(flush_seconds=0.02, max_waiting=1000)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database(tmp_path)
    yield engine
    engine.dispose()


class UnreachableRepository(LedgerRepository):
    """A repository that fails with `error` until it is None."""

    def __init__(self, database: sa.Engine) -> None:
        super().__init__(database)
        self.error: Exception | None = OperationalError("", {}, Exception("no route to host"))
        self.tries = 0

    def write(self, records: Sequence[Mapping[str, Any]], minutes: Mapping[int, EngineTime]) -> None:
        """Fail, or write."""
        self.tries += 1
        if self.error:
            raise self.error
        super().write(records, minutes)


def rows(engine: sa.Engine, table: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table)).mappings())


def test_all_records_are_written(engine: sa.Engine) -> None:
    observer = RecordingLedgerObserver()
    writer = LedgerWriter(LedgerRepository(engine), FAST, observer, lambda: NOON)
    writer.start()
    for number in range(500):
        writer.record_charge(record(request_id=f"req_{number}"), CHARGE)
    observer.wait_for(lambda: len(rows(engine, usage_records)) == 500)
    found = rows(engine, usage_records)
    assert [row["request_id"] for row in found] == [f"req_{number}" for number in range(500)]
    (hour,) = rows(engine, usage_hours)
    assert (hour["hour"], hour["requests"], hour["price_list_cost"], hour["output_tokens"]) == (
        490_000,
        500,
        500_000,
        5500,
    )
    writer.close()
    assert (observer.waiting, observer.dropped) == (0, 0)


def test_closing_writes_waiting_records(engine: sa.Engine) -> None:
    writer = LedgerWriter(
        LedgerRepository(engine), LedgerLimits(flush_seconds=3600), RecordingLedgerObserver(), lambda: NOON
    )
    writer.start()
    writer.record_charge(record(), CHARGE)
    writer.record_engine_time(EngineTime(1.0, 0.5, 70, 30))
    writer.close()
    assert len(rows(engine, usage_records)) == 1
    (minute,) = rows(engine, engine_minutes)
    assert (minute["seconds"], minute["busy_seconds"], minute["requests_cost"], minute["idle_cost"]) == (
        1.0,
        0.5,
        70,
        30,
    )


def test_records_wait_for_an_unreachable_database_and_are_written_once(engine: sa.Engine) -> None:
    repository, observer = UnreachableRepository(engine), RecordingLedgerObserver()
    writer = LedgerWriter(repository, FAST, observer, lambda: NOON)
    writer.start()
    for number in range(100):
        writer.record_charge(record(request_id=f"req_{number}"), CHARGE)
    observer.wait_for(lambda: repository.tries >= 3)
    assert observer.waiting == 100
    repository.error = None
    writer.close()
    assert [row["request_id"] for row in rows(engine, usage_records)] == [f"req_{number}" for number in range(100)]
    assert [row["requests"] for row in rows(engine, usage_hours)] == [100]


def test_waiting_records_are_limited_and_dropped_ones_are_counted(engine: sa.Engine) -> None:
    repository, observer = UnreachableRepository(engine), RecordingLedgerObserver()
    writer = LedgerWriter(repository, LedgerLimits(flush_seconds=0.02, max_waiting=10), observer, lambda: NOON)
    for number in range(25):
        writer.record_charge(record(request_id=f"req_{number}"), CHARGE)
    writer.start()
    repository.error = None
    writer.close()
    assert [row["request_id"] for row in rows(engine, usage_records)] == [f"req_{number}" for number in range(10)]
    assert observer.dropped == 15


def test_an_unreachable_database_does_not_block_closing(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    writer = LedgerWriter(UnreachableRepository(engine), FAST, RecordingLedgerObserver())
    writer.start()
    writer.record_charge(record(), CHARGE)
    writer.close()
    assert "1 usage records are lost" in caplog.text


def test_invalid_records_are_dropped_and_counted_and_later_ones_are_written(engine: sa.Engine) -> None:
    repository, observer = UnreachableRepository(engine), RecordingLedgerObserver()
    repository.error = DataError("", {}, Exception("value out of range"))
    writer = LedgerWriter(repository, FAST, observer, lambda: NOON)
    writer.record_charge(record(), CHARGE)
    assert writer.flush() is False
    repository.error = None
    writer.record_charge(record(request_id="req_2"), CHARGE)
    writer.start()
    writer.close()
    assert [row["request_id"] for row in rows(engine, usage_records)] == ["req_2"]
    assert observer.dropped == 1


def test_an_hourly_rollup_grows_and_each_process_has_its_own(engine: sa.Engine) -> None:
    first, second = (LedgerWriter(LedgerRepository(engine), FAST, RecordingLedgerObserver()) for _ in range(2))
    for writer in (first, first, second):
        writer.record_charge(record(), CHARGE)
        writer.flush()
    first.record_charge(record(NOON + HOUR), CHARGE)
    first.flush()
    assert sorted((row["hour"], row["requests"]) for row in rows(engine, usage_hours)) == [
        (490_000, 1),
        (490_000, 2),
        (490_001, 1),
    ]


def test_the_row_of_the_newest_minute_grows_even_if_the_clock_is_set_back(engine: sa.Engine) -> None:
    now = [600.0]
    writer = LedgerWriter(LedgerRepository(engine), FAST, RecordingLedgerObserver(), clock=lambda: now[0])
    for moment in (600.0, 610.0, 660.0, 601.0, 661.0):
        now[0] = moment
        writer.record_engine_time(EngineTime(1.0, 0.0, 0, 5))
        writer.flush()
    assert [(row["minute"], row["idle_cost"]) for row in rows(engine, engine_minutes)] == [(10, 10), (11, 15)]


def test_expired_records_are_deleted_before_rollups(engine: sa.Engine) -> None:
    day, now = 86_400.0, [NOON]
    limits = LedgerLimits(flush_seconds=0.02, record_days=1, rollup_days=10)
    writer = LedgerWriter(LedgerRepository(engine), limits, RecordingLedgerObserver(), clock=lambda: now[0])
    for age in (20, 5, 0):
        writer.record_charge(record(NOON - age * day), CHARGE)
    writer.start()
    writer.close()
    assert [row["ended_at"] for row in rows(engine, usage_records)] == [NOON]
    assert [row["hour"] for row in rows(engine, usage_hours)] == [490_000 - 5 * 24, 490_000]
