"""Usage read from rollups, records or both equals what was written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.ledger.usage_rows import usage_row
from loramux_server.metering.usage_record import Outcome, Route, RunStats
from tests.helpers.usage_records import CHARGE, HOUR, NOON, TONE, database, record

DAY = TimeRange(NOON - 12 * HOUR, NOON + 12 * HOUR)
ROUTES = (Route(), TONE, Route("tone", "000000000000"), Route("json", "111111111111"), None)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database(tmp_path)
    yield engine
    engine.dispose()


def keep(engine: sa.Engine, *records: object) -> LedgerReader:
    LedgerRepository(engine).write([usage_row(record, CHARGE) for record in records], {})  # type: ignore[arg-type]
    return LedgerReader(engine)


def test_usage_is_grouped_by_every_dimension(engine: sa.Engine) -> None:
    reader = keep(engine, *(record(route=route) for route in ROUTES), record(NOON + HOUR, key_id=None))
    counts = {by: {label: usage.requests for label, usage in reader.usage(DAY, by).items()} for by in GroupBy}
    assert counts[GroupBy.ROUTE] == {("base",): 1, ("adapter",): 4, ("none",): 1}
    assert counts[GroupBy.ADAPTER] == {("base", ""): 1, ("adapter", "tone"): 3, ("adapter", "json"): 1, ("none", ""): 1}
    assert counts[GroupBy.VERSION]["adapter", "tone", "3f9c2ab01d44"] == 2
    assert counts[GroupBy.KEY] == {("key_1",): 5, ("",): 1}
    assert counts[GroupBy.HOUR] == {("2025-11-24T16:00:00Z",): 5, ("2025-11-24T17:00:00Z",): 1}
    assert counts[GroupBy.DAY] == {("2025-11-24",): 6}


def test_usage_can_be_filtered_by_adapter(engine: sa.Engine) -> None:
    reader = keep(engine, *(record(route=route) for route in ROUTES))
    assert set(reader.usage(DAY, GroupBy.ADAPTER, {"adapter": "json"})) == {("adapter", "json")}
    assert reader.usage(DAY, GroupBy.ADAPTER, {"adapter": "nobody' OR 1=1 --"}) == {}


def test_latency_is_of_successful_requests_and_cost_of_all(engine: sa.Engine) -> None:
    slow = RunStats(input_tokens=1, first_token=100.0, last_token=100.0, output_tokens=1)
    reader = keep(engine, record(), record(outcome=Outcome.CANCELLED, stats=slow))
    (usage,) = reader.usage(DAY, GroupBy.ROUTE).values()
    assert usage.outcomes == {"ok": 1, "cancelled": 1}
    assert usage.sums["price_list_cost"] == 2_000
    assert usage.distributions().measure("first_token").quantile(1) == pytest.approx(1.0, rel=0.01)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.floats(0, 5 * HOUR), min_size=1, max_size=30),
    st.tuples(st.floats(-HOUR, 6 * HOUR), st.floats(0, 6 * HOUR)),
)
def test_any_range_is_exact_to_the_second(engine: sa.Engine, ends: list[float], bounds: tuple[float, float]) -> None:
    span = TimeRange(NOON + bounds[0], NOON + bounds[0] + bounds[1])
    with engine.begin() as connection:
        for table in ("usage_records", "usage_hours"):
            connection.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - our own names
    reader = keep(engine, *(record(NOON + end) for end in ends))
    expected = sum(span.since <= record(NOON + end).ended_at < span.until for end in ends)
    assert sum(usage.requests for usage in reader.usage(span, GroupBy.ROUTE).values()) == expected


def test_whole_hours_are_read_after_their_records_are_deleted(engine: sa.Engine) -> None:
    reader = keep(engine, record(NOON + 1))
    LedgerRepository(engine).delete_expired(NOON + HOUR, 0)
    assert [usage.requests for usage in reader.usage(DAY, GroupBy.ROUTE).values()] == [1]


def test_engine_time_of_two_processes_adds_up(engine: sa.Engine) -> None:
    for _ in range(2):  # two processes
        LedgerRepository(engine).write(
            [], {int(NOON // 60): EngineTime(1, 0.5, 3, 4), int(NOON // 60) + 1: EngineTime(2, 1, 5, 6)}
        )
    assert LedgerReader(engine).engine_time(DAY) == EngineTime(6, 3, 16, 20)
    assert LedgerReader(engine).engine_time(TimeRange(0, 60)) == EngineTime()


def test_engine_time_of_a_range_leaves_out_the_minute_that_starts_at_its_end(engine: sa.Engine) -> None:
    minutes = {int(NOON // 60) + offset: EngineTime(10**offset, 0, 0, 0) for offset in range(3)}
    LedgerRepository(engine).write([], minutes)
    seconds = [LedgerReader(engine).engine_time(TimeRange(NOON, NOON + end)).seconds for end in (60, 61, 120)]
    assert seconds == [1, 11, 11]
