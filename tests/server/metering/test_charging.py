"""Each request is charged once, after the engine's cost is allocated."""

from dataclasses import dataclass
from decimal import Decimal

import pytest

from loramux_adapters.evaluation.token_prices import AdapterPrices, TokenPrices
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import CostShare, EngineTime, Weights
from loramux_server.metering.pricing import FixedPrices, Prices
from loramux_server.metering.usage_record import Charge, Outcome, Route, RunStats, UsageRecord
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
    meter = ChargingMeter(FixedPrices(PRICES), [sink], lambda: now[0])
    runs = [meter.start_run(share) for _ in range(2)]
    now[0] = SECOND
    for run in runs:
        meter.end_run(run)
    ended = record(cost_share=share, route=Route())
    meter.record(ended)
    assert sink.charges == []
    meter.charge_ended()
    meter.charge_ended()
    assert sink.charges == [(ended, Charge(10 * 1000 + 11 * 2000, 10_000_000, PRICES.version))]
    assert sink.time == EngineTime(1.0, 1.0, 10_000_000, 0)


@dataclass
class ChangingPrices:
    """A PriceSource whose prices a test changes."""

    current: Prices

    @property
    def weights(self) -> Weights:
        """Those of the price list."""
        return self.current.weights


def test_a_request_is_charged_at_the_prices_of_its_end_and_its_engine_time_at_those_of_each_moment() -> None:
    now, sink, share, source = [0], RecordingSink(), CostShare(), ChangingPrices(PRICES)
    meter = ChargingMeter(source, [sink], lambda: now[0])
    run = meter.start_run(share)
    now[0] = SECOND
    meter.charge_ended()
    source.current = Prices(base=TokenPrices(input=Decimal(10)), gpu_hour=Decimal(72))
    meter.charge_ended()
    now[0] = 2 * SECOND
    meter.end_run(run)
    meter.record(record(cost_share=share, route=Route()))
    meter.charge_ended()
    ((_, charge),) = sink.charges
    assert charge == Charge(10 * 10_000, 10_000_000 + 20_000_000, source.current.version)


@pytest.mark.parametrize(
    ("prices", "costs"),
    [
        (Prices(), (None, None)),
        (Prices(gpu_hour=Decimal(0)), (None, 0)),
        (Prices(base=TokenPrices(input=Decimal(0))), (0, None)),
        (
            Prices(base=TokenPrices(), adapters={"tone": AdapterPrices(tokens=TokenPrices(output=Decimal(1)))}),
            (11_000, None),
        ),
        (Prices(adapter=AdapterPrices(multiplier=Decimal(2))), (None, None)),
    ],
)
def test_a_request_without_a_price_has_an_unknown_cost_and_one_with_a_price_of_zero_costs_nothing(
    prices: Prices, costs: tuple[int | None, int | None]
) -> None:
    """T5: requests before prices were set cost an unknown amount, not 0.00."""
    sink = RecordingSink()
    meter = ChargingMeter(FixedPrices(prices), [sink], lambda: 0)
    meter.record(record(cost_share=CostShare()))
    meter.charge_ended()
    ((_, charge),) = sink.charges
    assert (charge.price_list, charge.gpu_hour) == costs


def test_a_request_that_began_on_unpriced_engine_time_has_an_unknown_share() -> None:
    now, sink, share, source = [0], RecordingSink(), CostShare(), ChangingPrices(Prices())
    meter = ChargingMeter(source, [sink], lambda: now[0])
    run = meter.start_run(share)
    now[0] = SECOND
    meter.count_step([(run, 0, 1)], 1.0)
    meter.charge_ended()
    source.current = PRICES
    meter.charge_ended()
    meter.end_run(run)
    meter.record(record(cost_share=share, route=Route()))
    meter.charge_ended()
    assert sink.charges[0][1].gpu_hour is None


def test_a_refused_request_costs_nothing_and_is_not_unpriced_without_prices() -> None:
    """T5: the number of unpriced requests is that of requests whose cost is unknown."""
    sink = RecordingSink()
    meter = ChargingMeter(FixedPrices(Prices()), [sink], lambda: 0)
    for outcome in (Outcome.REFUSED, Outcome.OK, Outcome.FAILED):
        meter.record(record(outcome=outcome, stats=RunStats()))
    meter.charge_ended()
    assert [(charge.price_list, charge.gpu_hour) for _, charge in sink.charges] == [(0, 0), (None, None), (None, None)]


def test_a_request_that_never_had_a_route_costs_nothing() -> None:
    sink = RecordingSink()
    meter = ChargingMeter(FixedPrices(PRICES), [sink], lambda: 0)
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
    meter = ChargingMeter(FixedPrices(PRICES), [sink], lambda: 0)
    for name in ("first", "bad", "last"):
        meter.record(record(request_id=name))
    meter.charge_ended()
    assert [kept.request_id for kept, _ in sink.charges] == ["first", "last"]
    assert "bad could not be charged" in caplog.text
