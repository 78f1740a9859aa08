"""Each request is charged once, after the engine's cost is allocated."""

from decimal import Decimal

import pytest

from loramux_adapters.evaluation.token_prices import TokenPrices
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import CostShare, EngineTime, ProcessedTokens
from loramux_server.metering.pricing import Prices
from loramux_server.metering.usage_record import Charge, Route, RunStats, UsageRecord
from tests.helpers.usage_records import record

PRICES = Prices(base=TokenPrices(input=Decimal(1), output=Decimal(2)), gpu_hour=Decimal(36))
SECOND = 10**9


class RecordingSink:
    """A ChargeSink that keeps all charges."""

    def __init__(self) -> None:
        self.charges: list[tuple[UsageRecord, Charge]] = []
        self.time = EngineTime()

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Keep it."""
        self.charges.append((record, charge))

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Add it up."""
        self.time += engine_time


def test_a_request_is_charged_once_with_the_cost_of_all_its_runs() -> None:
    now, sink, share = [0], RecordingSink(), CostShare()
    meter = ChargingMeter(PRICES, [sink], lambda: now[0])
    with (
        meter.track_engine_time(share, lambda: ProcessedTokens(6, 11)),
        meter.track_engine_time(share, lambda: ProcessedTokens(6, 11)),
    ):
        now[0] = SECOND
    ended = record(cost_share=share, route=Route())
    meter.record(ended)
    assert sink.charges == []
    meter.charge_ended()
    meter.charge_ended()
    assert sink.charges == [(ended, Charge(10 * 1000 + 11 * 2000, 10_000_000, PRICES.version))]
    assert sink.time == EngineTime(1.0, 1.0, 10_000_000, 0)


def test_a_failed_run_does_not_keep_the_engine_busy() -> None:
    now, sink = [0], RecordingSink()
    meter = ChargingMeter(PRICES, [sink], lambda: now[0])
    with pytest.raises(ValueError, match="died"), meter.track_engine_time(CostShare(), ProcessedTokens):
        now[0] = SECOND
        raise ValueError("It died.")
    now[0] = 3 * SECOND
    meter.charge_ended()
    assert sink.time == EngineTime(3.0, 1.0, 10_000_000, 20_000_000)


def test_a_request_that_never_had_a_route_costs_nothing() -> None:
    sink = RecordingSink()
    meter = ChargingMeter(PRICES, [sink], lambda: 0)
    meter.record(record(route=None, stats=RunStats()))
    meter.charge_ended()
    ((_, charge),) = sink.charges
    assert (charge.price_list, charge.gpu_hour) == (0, 0)


def test_an_error_of_a_sink_loses_only_that_request(caplog: pytest.LogCaptureFixture) -> None:
    class FailingSink(RecordingSink):
        def record_charge(self, record: UsageRecord, charge: Charge) -> None:
            if record.request_id == "bad":
                raise ZeroDivisionError
            super().record_charge(record, charge)

    sink = FailingSink()
    meter = ChargingMeter(PRICES, [sink], lambda: 0)
    for name in ("first", "bad", "last"):
        meter.record(record(request_id=name))
    meter.charge_ended()
    assert [kept.request_id for kept, _ in sink.charges] == ["first", "last"]
    assert "bad could not be charged" in caplog.text
