"""The engine's cost is allocated to requests by their work, and no nano-dollar is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from loramux_server.metering.cost_allocation import (
    ActiveRun,
    CostShare,
    EngineCostAllocator,
    EngineTime,
    Weights,
    split_proportionally,
)

SECOND = 10**9
DOLLAR_AN_HOUR = 10**9
CENT_PER_SECOND = 36 * 10**9


def allocator(rate: int | None = CENT_PER_SECOND) -> EngineCostAllocator:
    return EngineCostAllocator(rate, Weights(prefill=1, decode=4), started_at=0)


def start(engine: EngineCostAllocator, share: CostShare, now: int = 0, prefill: int = 0, decode: int = 0) -> ActiveRun:
    run = engine.start_run(share, now)
    run.prefill, run.decode = prefill, decode
    return run


def step(engine: EngineCostAllocator, now: int) -> EngineTime:
    engine.step(now)
    return engine.allocate(now)


def test_a_single_run_pays_for_all_its_time() -> None:
    engine, share = allocator(), CostShare()
    engine.end_run(start(engine, share, 1 * SECOND, 100, 5), 3 * SECOND)
    time = engine.allocate(4 * SECOND)
    assert share.nanodollars == 20_000_000
    assert time == EngineTime(4.0, 2.0, 20_000_000, 20_000_000)


def test_time_is_shared_by_work_and_a_decoded_token_weighs_more() -> None:
    engine, reader, writer = allocator(), CostShare(), CostShare()
    start(engine, reader, prefill=30)
    start(engine, writer, prefill=10, decode=15)
    step(engine, SECOND)
    assert (reader.nanodollars, writer.nanodollars) == (3_000_000, 7_000_000)


def test_each_allocation_counts_only_the_work_since_the_last() -> None:
    engine, early, late = allocator(), CostShare(), CostShare()
    start(engine, early, decode=10)
    step(engine, SECOND)
    start(engine, late, SECOND, decode=5)
    step(engine, 2 * SECOND)
    assert (early.nanodollars, late.nanodollars) == (10_000_000, 10_000_000)


def test_the_time_since_the_last_step_waits_for_the_work_of_the_next() -> None:
    """Otherwise a request that begins or ends between two allocations gets the time of others."""
    engine, early, late = allocator(), CostShare(), CostShare()
    run = start(engine, early, decode=1)
    engine.step(SECOND)
    assert engine.allocate(3 * SECOND).requests_nanodollars == 10_000_000
    assert (early.nanodollars, engine.unallocated) == (10_000_000, 20_000_000)
    run.decode = start(engine, late, 3 * SECOND).decode = 1
    step(engine, 5 * SECOND)
    assert (early.nanodollars, late.nanodollars) == (30_000_000, 20_000_000)


def test_the_time_of_a_prefill_waits_for_its_report() -> None:
    engine, share = allocator(), CostShare()
    run = start(engine, share)
    step(engine, 5 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (0, 50_000_000)
    run.prefill, run.decode = 1000, 1
    step(engine, 6 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (60_000_000, 0)


def test_a_run_without_work_pays_if_it_was_alone() -> None:
    engine, share = allocator(), CostShare()
    engine.end_run(start(engine, share), SECOND)
    engine.allocate(2 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (10_000_000, 0)


def test_the_time_of_a_run_without_work_goes_to_active_runs() -> None:
    engine, gone, staying = allocator(), CostShare(), CostShare()
    run = start(engine, staying)
    engine.end_run(start(engine, gone), SECOND)
    engine.allocate(SECOND)
    run.prefill = 1
    step(engine, 2 * SECOND)
    assert (gone.nanodollars, staying.nanodollars) == (0, 20_000_000)


def test_a_run_that_ended_in_the_engine_may_be_ended_again_later() -> None:
    engine, share = allocator(), CostShare()
    run = start(engine, share, decode=1)
    engine.end_run(run, SECOND)
    engine.end_run(run, 9 * SECOND)
    assert engine.allocate(10 * SECOND) == EngineTime(10.0, 1.0, 10_000_000, 90_000_000)


def test_time_is_charged_at_the_price_of_its_moment() -> None:
    engine, share = allocator(), CostShare()
    run = start(engine, share, decode=1)
    engine.allocate(SECOND)
    engine.change_prices(3 * CENT_PER_SECOND, Weights(1, 8), SECOND)
    engine.end_run(run, 2 * SECOND)
    time = engine.allocate(4 * SECOND)
    assert (share.nanodollars, time.idle_nanodollars) == (40_000_000, 60_000_000)


@pytest.mark.parametrize(("before", "after"), [(None, CENT_PER_SECOND), (CENT_PER_SECOND, None)])
def test_a_run_on_time_without_a_price_is_unpriced(before: int | None, after: int | None) -> None:
    engine, across, priced = allocator(before), CostShare(), CostShare()
    run = start(engine, across, decode=1)
    step(engine, SECOND)
    engine.change_prices(after, Weights(1, 4), SECOND)
    run.decode = 1
    engine.end_run(run, 2 * SECOND)
    engine.allocate(2 * SECOND)
    engine.change_prices(CENT_PER_SECOND, Weights(1, 4), 3 * SECOND)
    engine.end_run(start(engine, priced, 3 * SECOND, decode=1), 4 * SECOND)
    engine.allocate(4 * SECOND)
    assert across.unpriced
    assert (priced.unpriced, priced.nanodollars) == (False, 10_000_000)


def test_a_price_of_zero_is_a_price() -> None:
    engine, share = allocator(0), CostShare()
    engine.end_run(start(engine, share, decode=1), SECOND)
    engine.allocate(SECOND)
    assert (share.nanodollars, share.unpriced) == (0, False)


@given(
    st.integers(0, 10**20),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=50).filter(lambda weights: any(weights)),
)
def test_parts_add_up_and_are_right_to_one(amount: int, weights: list[int]) -> None:
    parts = split_proportionally(amount, weights)
    assert sum(parts) == amount
    assert all(
        abs(part * sum(weights) - amount * weight) <= sum(weights) for part, weight in zip(parts, weights, strict=True)
    )


class Timeline(RuleBasedStateMachine):
    """Runs start, work and end at random, at changing prices; the cost of all time is allocated, pending or idle."""

    def __init__(self) -> None:
        super().__init__()
        self.rate: int | None = 2_345_678_901
        self.engine = EngineCostAllocator(self.rate, Weights(1000, 3700), started_at=0)
        self.now = 0
        self.cost = 0
        self.shares: list[CostShare] = []
        self.runs: list[ActiveRun] = []
        self.time = EngineTime()

    @rule(pause=st.integers(0, 10**11))
    def wait(self, pause: int) -> None:
        self.now += pause
        self.cost += pause * (self.rate or 0)

    @rule(own=st.booleans())
    def enter(self, own: bool) -> None:
        if own or not self.shares:
            self.shares.append(CostShare())
        self.runs.append(self.engine.start_run(self.shares[-1], self.now))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), prefill=st.integers(0, 5000), decode=st.integers(0, 50))
    def work(self, data: st.DataObject, prefill: int, decode: int) -> None:
        run = data.draw(st.sampled_from(self.runs))
        run.prefill += prefill
        run.decode += decode
        self.engine.step(self.now)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        self.runs.remove(run)
        self.engine.end_run(run, self.now)

    @rule(rate=st.none() | st.integers(0, 10**13), decode=st.integers(1, 10**6))
    def change_prices(self, rate: int | None, decode: int) -> None:
        self.rate = rate
        self.engine.change_prices(rate, Weights(1000, decode), self.now)

    @rule()
    def allocate(self) -> None:
        time = self.time = self.time + self.engine.allocate(self.now)
        owed = sum(share.nanodollars for share in self.shares)
        assert owed == time.requests_nanodollars
        total = owed + self.engine.unallocated + time.idle_nanodollars
        assert 0 <= self.cost // (3600 * SECOND) - total <= 1  # busy and idle time are each rounded down
        assert self.runs or self.engine.unallocated == 0
        assert time.seconds == pytest.approx(self.now / 1e9)
        assert all(share.nanodollars >= 0 for share in self.shares)

    def teardown(self) -> None:
        self.allocate()


TestTimeline = Timeline.TestCase
