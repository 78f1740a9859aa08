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
    StepWork,
    Weights,
    split_proportionally,
)

SECOND = 10**9
DOLLAR_AN_HOUR = 10**9
CENT_PER_SECOND = 36 * 10**9


def allocator(rate: int | None = CENT_PER_SECOND) -> EngineCostAllocator:
    return EngineCostAllocator(rate, Weights(prefill=1, decode=4), started_at=0)


def report(engine: EngineCostAllocator, now: int, *works: StepWork) -> None:
    """Report the work of a step that ends now, by the engine's clock too."""
    engine.step(works, 1000 + now / SECOND, now)


def step(engine: EngineCostAllocator, now: int, *works: StepWork) -> EngineTime:
    report(engine, now, *works)
    return engine.allocate(now)


def test_a_single_run_pays_for_all_its_time() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, 1 * SECOND)
    report(engine, 2 * SECOND, (run, 100, 1))
    engine.end_run(run, 3 * SECOND)
    time = engine.allocate(4 * SECOND)
    assert share.nanodollars == 20_000_000
    assert time == EngineTime(4.0, 2.0, 20_000_000, 20_000_000)


def test_time_is_shared_by_work_and_a_decoded_token_weighs_more() -> None:
    engine, reader, writer = allocator(), CostShare(), CostShare()
    runs = [engine.start_run(share, 0) for share in (reader, writer)]
    step(engine, SECOND, (runs[0], 30, 0), (runs[1], 10, 15))
    assert (reader.nanodollars, writer.nanodollars) == (3_000_000, 7_000_000)


def test_each_step_is_split_by_its_own_work() -> None:
    """A run that was alone for a step pays for all of it, though others worked more before the allocation."""
    engine, first, second = allocator(), CostShare(), CostShare()
    run, other = (engine.start_run(share, 0) for share in (first, second))
    report(engine, SECOND, (run, 0, 1))
    for number in (2, 3):
        report(engine, number * SECOND, (run, 0, 1), (other, 0, 1))
    engine.allocate(3 * SECOND)
    assert (first.nanodollars, second.nanodollars) == (20_000_000, 10_000_000)


def test_a_step_that_is_reported_in_parts_is_one_step() -> None:
    """vLLM's output handler reports at most 128 outputs at a time."""
    engine, first, second = allocator(), CostShare(), CostShare()
    run, other = (engine.start_run(share, 0) for share in (first, second))
    engine.step([(run, 0, 1)], 5.0, SECOND)
    engine.step([(other, 0, 1)], 5.0, SECOND + 1000)
    engine.allocate(2 * SECOND)
    assert (first.nanodollars, second.nanodollars) == (5_000_000, 5_000_000)


def test_steps_that_are_reported_late_have_their_time_by_the_engines_clock() -> None:
    engine, first, second = allocator(), CostShare(), CostShare()
    run, other = (engine.start_run(share, 0) for share in (first, second))
    engine.step([(run, 0, 1)], 100.0, SECOND)
    engine.step([(run, 0, 1)], 101.0, 3 * SECOND)  # was ready a second earlier
    engine.step([(other, 0, 1)], 102.0, 3 * SECOND)
    engine.allocate(3 * SECOND)
    assert (first.nanodollars, second.nanodollars) == (20_000_000, 10_000_000)


def test_idle_time_is_not_part_of_the_next_step() -> None:
    engine, early, first, second = allocator(), CostShare(), CostShare(), CostShare()
    run = engine.start_run(early, 0)
    report(engine, SECOND, (run, 0, 1))
    engine.end_run(run, SECOND)
    run = engine.start_run(first, 9 * SECOND)
    report(engine, 10 * SECOND, (run, 0, 1))
    other = engine.start_run(second, 10 * SECOND)
    report(engine, 11 * SECOND, (run, 0, 1), (other, 0, 1))
    time = engine.allocate(11 * SECOND)
    assert [share.nanodollars for share in (early, first, second)] == [10_000_000, 15_000_000, 5_000_000]
    assert time.idle_nanodollars == 80_000_000


def test_steps_of_several_engines_may_be_reported_out_of_order() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, 0)
    for timestamp, now in ((9.0, SECOND), (8.5, 2 * SECOND), (9.5, 3 * SECOND)):
        engine.step([(run, 0, 1)], timestamp, now)
    engine.allocate(3 * SECOND)
    assert share.nanodollars == 30_000_000


def test_each_allocation_counts_only_the_work_since_the_last() -> None:
    engine, early, late = allocator(), CostShare(), CostShare()
    run = engine.start_run(early, 0)
    step(engine, SECOND, (run, 0, 10))
    step(engine, 2 * SECOND, (engine.start_run(late, SECOND), 0, 5))
    assert (early.nanodollars, late.nanodollars) == (10_000_000, 10_000_000)


def test_the_time_since_the_last_step_waits_for_the_work_of_the_next() -> None:
    """Otherwise a request that begins or ends between two allocations gets the time of others."""
    engine, early, late = allocator(), CostShare(), CostShare()
    run = engine.start_run(early, 0)
    report(engine, SECOND, (run, 0, 1))
    assert engine.allocate(3 * SECOND).requests_nanodollars == 10_000_000
    assert (early.nanodollars, engine.unallocated) == (10_000_000, 20_000_000)
    step(engine, 5 * SECOND, (run, 0, 1), (engine.start_run(late, 3 * SECOND), 0, 1))
    assert (early.nanodollars, late.nanodollars) == (30_000_000, 20_000_000)


def test_the_time_of_steps_without_work_of_requests_waits_for_some() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, 0)
    step(engine, 5 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (0, 50_000_000)
    step(engine, 6 * SECOND, (run, 1000, 1))
    assert (share.nanodollars, engine.unallocated) == (60_000_000, 0)


def test_a_run_without_work_pays_if_it_was_alone() -> None:
    engine, share = allocator(), CostShare()
    engine.end_run(engine.start_run(share, 0), SECOND)
    engine.allocate(2 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (10_000_000, 0)


def test_the_time_of_a_run_without_work_goes_to_active_runs() -> None:
    engine, gone, staying = allocator(), CostShare(), CostShare()
    run = engine.start_run(staying, 0)
    engine.end_run(engine.start_run(gone, 0), SECOND)
    engine.allocate(SECOND)
    step(engine, 2 * SECOND, (run, 1, 0))
    assert (gone.nanodollars, staying.nanodollars) == (0, 20_000_000)


def test_a_run_that_ended_in_the_engine_may_be_ended_again_later() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, 0)
    report(engine, SECOND, (run, 0, 1))
    engine.end_run(run, SECOND)
    engine.end_run(run, 9 * SECOND)
    assert engine.allocate(10 * SECOND) == EngineTime(10.0, 1.0, 10_000_000, 90_000_000)


def test_time_is_charged_at_the_price_of_its_moment() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, 0)
    step(engine, SECOND, (run, 0, 1))
    engine.change_prices(3 * CENT_PER_SECOND, Weights(1, 8), SECOND)
    engine.end_run(run, 2 * SECOND)
    time = engine.allocate(4 * SECOND)
    assert (share.nanodollars, time.idle_nanodollars) == (40_000_000, 60_000_000)


@pytest.mark.parametrize(("before", "after"), [(None, CENT_PER_SECOND), (CENT_PER_SECOND, None)])
def test_a_run_on_time_without_a_price_is_unpriced(before: int | None, after: int | None) -> None:
    engine, across, priced = allocator(before), CostShare(), CostShare()
    run = engine.start_run(across, 0)
    step(engine, SECOND, (run, 0, 1))
    engine.change_prices(after, Weights(1, 4), SECOND)
    report(engine, 2 * SECOND, (run, 0, 1))
    engine.end_run(run, 2 * SECOND)
    engine.allocate(2 * SECOND)
    engine.change_prices(CENT_PER_SECOND, Weights(1, 4), 3 * SECOND)
    engine.end_run(engine.start_run(priced, 3 * SECOND), 4 * SECOND)
    engine.allocate(4 * SECOND)
    assert across.unpriced
    assert (priced.unpriced, priced.nanodollars) == (False, 10_000_000)


def test_a_price_of_zero_is_a_price() -> None:
    engine, share = allocator(0), CostShare()
    engine.end_run(engine.start_run(share, 0), SECOND)
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
    @rule(data=st.data(), prefill=st.integers(0, 5000), decode=st.integers(0, 50), late=st.integers(0, 10**9))
    def work(self, data: st.DataObject, prefill: int, decode: int, late: int) -> None:
        run = data.draw(st.sampled_from(self.runs))
        self.engine.step([(run, prefill, decode)], 1000 + (self.now - late) / SECOND, self.now)

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
