"""The arithmetic of limits: allowances refill evenly, budgets never overspend by more than what is in flight."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loramux_server.limits.account import Account, Demand, Excess
from loramux_server.limits.limit import Limit

NOON = datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()
START, HOUR = Demand(requests=1), 3600.0


def account_at(limit: Limit, now: float = NOON, **demand: int) -> Account:
    """Return an account from which one request has taken `demand`."""
    account = Account()
    account.advance(limit, now)
    if demand:
        account.take("first", "server", Demand(**demand))
    return account


def excess(account: Account, limit: Limit, demand: Demand, now: float = NOON) -> Excess | None:
    account.advance(limit, now)
    return account.excess(limit, demand, now)


def test_an_allowance_refills_evenly() -> None:
    limit = Limit(requests_per_minute=6)
    account = account_at(limit)
    for number in range(6):
        assert excess(account, limit, START) is None
        account.take(str(number), "server", START)
    found = excess(account, limit, START)
    assert found is not None
    assert (found.measure, found.limit, found.used, found.retry_after) == ("requests_per_minute", 6, 6, 10.0)
    assert excess(account, limit, START, NOON + 9.9) is not None
    assert excess(account, limit, START, NOON + 10) is None


def test_unused_tokens_of_a_reservation_are_given_back_and_missing_ones_taken() -> None:
    limit = Limit(tokens_per_minute=100)
    account = account_at(limit, tokens=80)
    account.settle("first", 30, 0)
    assert [standing.remaining for standing in account.standings(limit)] == [70]
    account.take("second", "server", Demand(tokens=10))
    account.settle("second", 150, 0)
    assert account.tokens.used == 180
    found = excess(account, limit, Demand())
    assert found is not None
    assert found.retry_after == pytest.approx(81 * 60 / 100)


def test_a_demand_larger_than_the_limit_says_so_instead_of_when_to_try_again() -> None:
    limit = Limit(tokens_per_minute=100)
    found = excess(account_at(limit), limit, Demand(tokens=101))
    assert found is not None
    assert found.is_too_large


@pytest.mark.parametrize("limit", [Limit(tokens_per_day=100), Limit(tokens_per_month=100)])
def test_a_budget_that_running_requests_hold_is_no_spent_budget(limit: Limit) -> None:
    account = account_at(limit, tokens=60)
    found = excess(account, limit, Demand(tokens=50))
    assert found is not None
    assert (found.is_spent, found.used, found.retry_after) == (False, 60, 1.0)
    account.settle("first", 60, 0)
    found = excess(account, limit, Demand(tokens=50))
    assert found is not None
    assert found.is_spent
    assert excess(account, limit, Demand(tokens=40)) is None


@pytest.mark.parametrize(
    ("limit", "hours"), [(Limit(usd_per_day=Decimal("0.000001")), 12), (Limit(usd_per_month=Decimal("0.000001")), 12)]
)
def test_a_budget_is_full_again_at_midnight_or_with_the_month(limit: Limit, hours: int) -> None:
    account = account_at(limit)
    account.settle("unknown", 10, 1000)
    found = excess(account, limit, Demand(tokens=1, nanodollars=1))
    assert found is not None
    assert found.retry_after == hours * HOUR  # of the last of February
    assert excess(account, limit, Demand(tokens=1, nanodollars=1), NOON + hours * HOUR - 1) is not None
    assert excess(account, limit, Demand(tokens=1, nanodollars=1), NOON + hours * HOUR) is None


def test_tokens_without_a_price_need_no_dollars_and_a_start_needs_some_to_be_left() -> None:
    limit = Limit(usd_per_day=Decimal("0.000001"))
    account = account_at(limit)
    account.settle("unknown", 10, 1000)
    assert excess(account, limit, Demand(tokens=5)) is None
    assert excess(account, limit, START) is not None


@pytest.mark.parametrize("name", Limit.model_fields)
def test_a_limit_of_zero_refuses_every_request(name: str) -> None:
    assert excess(account_at(Limit()), Limit(**{name: 0}), START) is not None


@pytest.mark.parametrize("back", [1.0, 61.0, 86_400.0 * 400])
def test_a_clock_that_is_set_back_gives_nothing_away_and_blocks_nobody_for_long(back: float) -> None:
    limit = Limit(requests_per_minute=1)
    account = account_at(limit, requests=1)
    assert excess(account, limit, START, NOON - back) is not None
    assert excess(account, limit, START, NOON - back + 121) is None


def test_the_strictest_known_default_applies_where_a_subject_has_no_own_limit() -> None:
    own, default = Limit(requests_per_minute=1), Limit(requests_per_minute=5, concurrent_requests=2)
    assert own.over(default).values == {"requests_per_minute": 1, "concurrent_requests": 2}


BUDGET, RATE, CONCURRENT = 1000, 600, 3
LIMIT = Limit(tokens_per_day=BUDGET, tokens_per_minute=RATE, concurrent_requests=CONCURRENT)


class Spending(RuleBasedStateMachine):
    """Requests start, run and end in any order, and their answers may be longer than they reserved."""

    @initialize()
    def begin(self) -> None:
        self.account, self.now, self.number = Account(), NOON, 0
        self.running: dict[str, int] = {}
        self.spent = self.over = 0
        self.taken = 0.0

    def admit(self, demand: Demand) -> bool:
        return excess(self.account, LIMIT, demand, self.now) is None

    @rule(tokens=st.integers(1, 400))
    def start(self, tokens: int) -> None:
        self.number += 1
        if not self.admit(START):
            return
        name = str(self.number)
        self.account.take(name, "server", START)
        self.running[name] = 0
        if self.admit(Demand(tokens=tokens)):
            assert self.spent + sum(self.running.values()) + tokens <= BUDGET
            self.account.take(name, "server", Demand(tokens=tokens))
            self.running[name] = tokens
            self.taken += tokens
        else:
            self.end(name, 0)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.floats(0, 1.5))
    def finish(self, data: st.DataObject, share: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.end(name, int(self.running[name] * share))

    def end(self, name: str, used: int) -> None:
        reserved = self.running.pop(name)
        self.account.settle(name, used, 0)
        self.spent += used
        self.over += max(0, used - reserved)
        self.taken += used - reserved

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def within(self) -> None:
        assert len(self.running) <= CONCURRENT
        assert self.account.day.tokens == self.spent
        assert self.spent + sum(self.running.values()) <= BUDGET + self.over
        assert {name: hold.tokens for name, hold in self.account.holds.items()} == self.running
        refilled = (self.now - NOON) * RATE / 60
        assert self.taken <= RATE + refilled + self.over + 1e-6


TestSpending = Spending.TestCase


def test_values_of_a_limit_are_checked() -> None:
    for bad in (-1, "many", 1.5, float("nan"), 10**16):
        with pytest.raises(ValueError, match="requests_per_minute"):
            Limit(requests_per_minute=bad)
    invalid: list[dict[str, Any]] = [{"usd_per_day": "Infinity"}, {"usd_per_day": -0.01}, {"rpm": 1}]
    for fields in invalid:
        with pytest.raises(ValueError, match=next(iter(fields))):
            Limit(**fields)
