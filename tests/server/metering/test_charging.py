"""Charging: each request once, when the engine's time is shared out."""

from decimal import Decimal

import pytest

from loramux_server.metering.charging import Accounts
from loramux_server.metering.cost_allocation import EngineTime, Share, Work
from loramux_server.metering.pricing import Prices, TokenPrices
from loramux_server.metering.usage_record import Charge, Route, RunFacts, UsageRecord
from tests.helpers.usage_records import record

PRICES = Prices(base=TokenPrices(input=Decimal(1), output=Decimal(2)), gpu_hour=Decimal(36))
SECOND = 10**9


class Kept:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.charges: list[tuple[UsageRecord, Charge]] = []
        self.time = EngineTime()

    def charged(self, record: UsageRecord, charge: Charge) -> None:
        """Keep it."""
        self.charges.append((record, charge))

    def passed(self, engine_time: EngineTime) -> None:
        """Add it up."""
        self.time += engine_time


def test_a_request_is_charged_once_with_all_that_its_runs_owe() -> None:
    now, sink, share = [0], Kept(), Share()
    accounts = Accounts(PRICES, [sink], lambda: now[0])
    with accounts.in_engine(share, lambda: Work(6, 11)), accounts.in_engine(share, lambda: Work(6, 11)):
        now[0] = SECOND
    ended = record(share=share, route=Route())
    accounts.record(ended)
    assert sink.charges == []
    accounts.settle()
    accounts.settle()
    assert sink.charges == [(ended, Charge(10 * 1000 + 11 * 2000, 10_000_000, PRICES.version))]
    assert sink.time == EngineTime(1.0, 1.0, 10_000_000, 0)


def test_a_run_that_fails_is_out_of_the_engine() -> None:
    now, sink = [0], Kept()
    accounts = Accounts(PRICES, [sink], lambda: now[0])
    with pytest.raises(ValueError, match="died"), accounts.in_engine(Share(), Work):
        now[0] = SECOND
        raise ValueError("It died.")
    now[0] = 3 * SECOND
    accounts.settle()
    assert sink.time == EngineTime(3.0, 1.0, 10_000_000, 20_000_000)


def test_a_request_that_never_had_a_route_costs_nothing() -> None:
    sink = Kept()
    accounts = Accounts(PRICES, [sink], lambda: 0)
    accounts.record(record(route=None, facts=RunFacts()))
    accounts.settle()
    ((_, charge),) = sink.charges
    assert (charge.price_list, charge.gpu_hour) == (0, 0)


def test_a_request_that_breaks_a_sink_does_not_cost_the_others_their_records(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Kept):
        def charged(self, record: UsageRecord, charge: Charge) -> None:
            if record.request_id == "bad":
                raise ZeroDivisionError
            super().charged(record, charge)

    sink = Fragile()
    accounts = Accounts(PRICES, [sink], lambda: 0)
    for name in ("first", "bad", "last"):
        accounts.record(record(request_id=name))
    accounts.settle()
    assert [kept.request_id for kept, _ in sink.charges] == ["first", "last"]
    assert "bad could not be charged" in caplog.text
