"""The engine's bill: who owes what, and that nothing is lost."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from loramux_server.metering.cost_allocation import EngineBill, EngineTime, Share, Stay, Work, split

SECOND = 10**9
DOLLAR_AN_HOUR = 10**9
CENT_PER_SECOND = 36 * 10**9


def bill(rate: int = CENT_PER_SECOND) -> EngineBill:
    return EngineBill(rate, prefill_weight=1, decode_weight=4, began=0)


def doing(work: Work) -> Callable[[], Work]:
    return lambda: work


def test_who_is_alone_pays_for_all_the_time_that_it_was_in() -> None:
    engine, share = bill(), Share()
    stay = engine.enter(share, doing(Work(100, 5)), 1 * SECOND)
    engine.leave(stay, 3 * SECOND)
    time = engine.settle(4 * SECOND)
    assert share.nanodollars == 20_000_000
    assert time == EngineTime(4.0, 2.0, 20_000_000, 20_000_000)


def test_time_is_shared_by_work_and_a_decoded_token_weighs_more() -> None:
    engine, reader, writer = bill(), Share(), Share()
    engine.enter(reader, doing(Work(prefill=30)), 0)
    engine.enter(writer, doing(Work(prefill=10, decode=15)), 0)
    engine.settle(SECOND)
    assert (reader.nanodollars, writer.nanodollars) == (3_000_000, 7_000_000)


def test_each_settlement_counts_only_the_work_since_the_last() -> None:
    engine, early, late, works = bill(), Share(), Share(), {"early": Work(decode=10), "late": Work()}
    engine.enter(early, lambda: works["early"], 0)
    engine.settle(SECOND)
    engine.enter(late, lambda: works["late"], SECOND)
    works["late"] = Work(decode=5)
    engine.settle(2 * SECOND)
    assert (early.nanodollars, late.nanodollars) == (10_000_000, 10_000_000)


def test_the_time_of_a_prefill_waits_for_its_first_token() -> None:
    engine, share, works = bill(), Share(), [Work()]
    engine.enter(share, lambda: works[0], 0)
    engine.settle(5 * SECOND)
    assert (share.nanodollars, engine.pending) == (0, 50_000_000)
    works[0] = Work(prefill=1000, decode=1)
    engine.settle(6 * SECOND)
    assert (share.nanodollars, engine.pending) == (60_000_000, 0)


def test_who_leaves_without_a_token_pays_if_nobody_else_was_in() -> None:
    engine, share = bill(), Share()
    engine.leave(engine.enter(share, doing(Work()), 0), SECOND)
    engine.settle(2 * SECOND)
    assert (share.nanodollars, engine.pending) == (10_000_000, 0)


def test_who_leaves_without_a_token_leaves_the_time_to_who_stays() -> None:
    engine, gone, staying, works = bill(), Share(), Share(), [Work()]
    engine.enter(staying, lambda: works[0], 0)
    engine.leave(engine.enter(gone, doing(Work()), 0), SECOND)
    engine.settle(SECOND)
    works[0] = Work(prefill=1)
    engine.settle(2 * SECOND)
    assert (gone.nanodollars, staying.nanodollars) == (0, 20_000_000)


@given(
    st.integers(0, 10**20),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=50).filter(lambda weights: any(weights)),
)
def test_parts_add_up_and_are_right_to_one(amount: int, weights: list[int]) -> None:
    parts = split(amount, weights)
    assert sum(parts) == amount
    assert all(
        abs(part * sum(weights) - amount * weight) <= sum(weights) for part, weight in zip(parts, weights, strict=True)
    )


class Timeline(RuleBasedStateMachine):
    """Runs come, work and go at random; all that the time costs is owed by somebody, or was idle."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 2_345_678_901
        self.engine = EngineBill(self.rate, prefill_weight=1000, decode_weight=3700, began=0)
        self.now = 0
        self.shares: list[Share] = []
        self.stays: list[tuple[Stay, list[Work]]] = []
        self.time = EngineTime()

    @rule(pause=st.integers(0, 10**11))
    def wait(self, pause: int) -> None:
        self.now += pause

    @rule(own=st.booleans())
    def enter(self, own: bool) -> None:
        if own or not self.shares:
            self.shares.append(Share())
        works = [Work()]
        self.stays.append((self.engine.enter(self.shares[-1], lambda: works[0], self.now), works))

    @precondition(lambda self: self.stays)
    @rule(data=st.data(), prefill=st.integers(0, 5000), decode=st.integers(0, 50))
    def work(self, data: st.DataObject, prefill: int, decode: int) -> None:
        _, works = data.draw(st.sampled_from(self.stays))
        works[0] = Work(works[0].prefill or prefill, works[0].decode + decode)

    @precondition(lambda self: self.stays)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.stays))
        self.stays.remove(entry)
        self.engine.leave(entry[0], self.now)

    @rule()
    def settle(self) -> None:
        time = self.time = self.time + self.engine.settle(self.now)
        owed = sum(share.nanodollars for share in self.shares)
        assert owed == time.requests_nanodollars
        total = owed + self.engine.pending + time.idle_nanodollars
        assert total == pytest.approx(self.now * self.rate / 3600e9, abs=2, rel=1e-12)
        assert self.stays or self.engine.pending == 0
        assert time.seconds == pytest.approx(self.now / 1e9)
        assert all(share.nanodollars >= 0 for share in self.shares)

    def teardown(self) -> None:
        self.settle()


TestTimeline = Timeline.TestCase
