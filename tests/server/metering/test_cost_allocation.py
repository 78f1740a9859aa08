"""The engine's cost is allocated to requests by their tokens, and no nano-dollar is lost."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from loramux_server.metering.cost_allocation import (
    ActiveRun,
    CostShare,
    EngineCostAllocator,
    EngineTime,
    ProcessedTokens,
    split_proportionally,
)

SECOND = 10**9
DOLLAR_AN_HOUR = 10**9
CENT_PER_SECOND = 36 * 10**9


def allocator(rate: int = CENT_PER_SECOND) -> EngineCostAllocator:
    return EngineCostAllocator(rate, prefill_weight=1, decode_weight=4, started_at=0)


def processed(work: ProcessedTokens) -> Callable[[], ProcessedTokens]:
    return lambda: work


def test_a_single_run_pays_for_all_its_time() -> None:
    engine, share = allocator(), CostShare()
    run = engine.start_run(share, processed(ProcessedTokens(100, 5)), 1 * SECOND)
    engine.end_run(run, 3 * SECOND)
    time = engine.allocate(4 * SECOND)
    assert share.nanodollars == 20_000_000
    assert time == EngineTime(4.0, 2.0, 20_000_000, 20_000_000)


def test_time_is_shared_by_work_and_a_decoded_token_weighs_more() -> None:
    engine, reader, writer = allocator(), CostShare(), CostShare()
    engine.start_run(reader, processed(ProcessedTokens(prefill=30)), 0)
    engine.start_run(writer, processed(ProcessedTokens(prefill=10, decode=15)), 0)
    engine.allocate(SECOND)
    assert (reader.nanodollars, writer.nanodollars) == (3_000_000, 7_000_000)


def test_each_allocation_counts_only_the_work_since_the_last() -> None:
    engine, early, late, works = (
        allocator(),
        CostShare(),
        CostShare(),
        {"early": ProcessedTokens(decode=10), "late": ProcessedTokens()},
    )
    engine.start_run(early, lambda: works["early"], 0)
    engine.allocate(SECOND)
    engine.start_run(late, lambda: works["late"], SECOND)
    works["late"] = ProcessedTokens(decode=5)
    engine.allocate(2 * SECOND)
    assert (early.nanodollars, late.nanodollars) == (10_000_000, 10_000_000)


def test_the_time_of_a_prefill_waits_for_its_first_token() -> None:
    engine, share, works = allocator(), CostShare(), [ProcessedTokens()]
    engine.start_run(share, lambda: works[0], 0)
    engine.allocate(5 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (0, 50_000_000)
    works[0] = ProcessedTokens(prefill=1000, decode=1)
    engine.allocate(6 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (60_000_000, 0)


def test_a_run_without_tokens_pays_if_it_was_alone() -> None:
    engine, share = allocator(), CostShare()
    engine.end_run(engine.start_run(share, processed(ProcessedTokens()), 0), SECOND)
    engine.allocate(2 * SECOND)
    assert (share.nanodollars, engine.unallocated) == (10_000_000, 0)


def test_the_time_of_a_run_without_tokens_goes_to_active_runs() -> None:
    engine, gone, staying, works = allocator(), CostShare(), CostShare(), [ProcessedTokens()]
    engine.start_run(staying, lambda: works[0], 0)
    engine.end_run(engine.start_run(gone, processed(ProcessedTokens()), 0), SECOND)
    engine.allocate(SECOND)
    works[0] = ProcessedTokens(prefill=1)
    engine.allocate(2 * SECOND)
    assert (gone.nanodollars, staying.nanodollars) == (0, 20_000_000)


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
    """Runs start, process tokens and end at random; the cost of all time is allocated, unallocated or idle."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 2_345_678_901
        self.engine = EngineCostAllocator(self.rate, prefill_weight=1000, decode_weight=3700, started_at=0)
        self.now = 0
        self.shares: list[CostShare] = []
        self.runs: list[tuple[ActiveRun, list[ProcessedTokens]]] = []
        self.time = EngineTime()

    @rule(pause=st.integers(0, 10**11))
    def wait(self, pause: int) -> None:
        self.now += pause

    @rule(own=st.booleans())
    def enter(self, own: bool) -> None:
        if own or not self.shares:
            self.shares.append(CostShare())
        works = [ProcessedTokens()]
        self.runs.append((self.engine.start_run(self.shares[-1], lambda: works[0], self.now), works))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), prefill=st.integers(0, 5000), decode=st.integers(0, 50))
    def work(self, data: st.DataObject, prefill: int, decode: int) -> None:
        _, works = data.draw(st.sampled_from(self.runs))
        works[0] = ProcessedTokens(works[0].prefill or prefill, works[0].decode + decode)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.runs))
        self.runs.remove(entry)
        self.engine.end_run(entry[0], self.now)

    @rule()
    def allocate(self) -> None:
        time = self.time = self.time + self.engine.allocate(self.now)
        owed = sum(share.nanodollars for share in self.shares)
        assert owed == time.requests_nanodollars
        total = owed + self.engine.unallocated + time.idle_nanodollars
        assert total == pytest.approx(self.now * self.rate / 3600e9, abs=2, rel=1e-12)
        assert self.runs or self.engine.unallocated == 0
        assert time.seconds == pytest.approx(self.now / 1e9)
        assert all(share.nanodollars >= 0 for share in self.shares)

    def teardown(self) -> None:
        self.allocate()


TestTimeline = Timeline.TestCase
