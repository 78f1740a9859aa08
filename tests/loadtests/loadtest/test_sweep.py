from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, default_rng

from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.rate_trial import RateTrial
from loramux_loadtests.loadtest.steady_state import SteadyState
from loramux_loadtests.loadtest.sweep import MAX_RATE, MIN_RATE, Bracket, RateSearch, SweepResult
from tests.helpers.simulated_queue import SimulatedQueue, SimulatedTrials

STEADY = SteadyState(begin=0, end=100, sent=10**7, answered=10**7, in_flight_first=1, in_flight_last=1)


async def searched(truth: float, begin: float, precision: float = 0.1) -> tuple[list[float], float, float | None]:
    search = search_by(lambda rate: rate <= truth, precision)
    found = await search.highest_rate(begin)
    return [trial.rate for trial in search.trials], found.met, found.missed


def search_by(is_met: Callable[[float], bool], precision: float = 0.1) -> RateSearch:
    async def run(rate: float, _: float) -> RateTrial:
        return RateTrial(rate, STEADY, [] if is_met(rate) else ["ttft_p95<1: 2"])

    return RateSearch(run, precision, [])


async def test_rates_are_doubled_and_then_bisected() -> None:
    tried, met, missed = await searched(truth=5.0, begin=1.0, precision=0.2)
    assert tried == pytest.approx([1.0, 2.0, 4.0, 8.0, 32**0.5, 4.757], rel=0.001)
    assert (met, missed) == pytest.approx((4.757, 32**0.5), rel=0.001)


@given(truth=st.floats(0.01, 10_000), begin=st.floats(0.01, 1000), precision=st.floats(0.01, 1))
async def test_the_answer_is_between_what_was_met_and_what_was_missed(
    truth: float, begin: float, precision: float
) -> None:
    tried, met, missed = await searched(truth, begin, precision)
    assert missed is not None
    assert met <= truth < missed <= met * (1 + precision) * 1.0001
    assert len(tried) == len(set(tried))


async def test_a_server_that_meets_the_goal_never_or_always_ends_the_search() -> None:
    _, met, missed = await searched(truth=0.0, begin=1.0)
    assert (met, missed) == (0.0, MIN_RATE)
    _, met, missed = await searched(truth=float("inf"), begin=1.0)
    assert (met, missed) == (MAX_RATE, None)


async def test_a_rate_that_does_not_hold_for_longer_is_replaced_by_the_next_lower_one() -> None:
    search = search_by(lambda rate: rate <= 4.0)
    bracket, sustained = await search.confirm(Bracket(4.3, 5.0), 120)
    assert [trial.rate for trial in search.trials] == pytest.approx([4.3, 4.3 / 1.05, 4.3 / 1.05**2])
    assert (bracket.met, bracket.missed) == pytest.approx((4.3 / 1.05**2, 4.3 / 1.05))
    assert sustained == search.trials[-1]


async def test_a_rate_is_only_called_sustained_if_it_held_when_it_was_run_again() -> None:
    never = search_by(lambda _: False)
    bracket, sustained = await never.confirm(Bracket(4.0, 5.0), 120)
    assert (bracket.met, sustained) == (0.0, None)
    met = RateTrial(4.0, STEADY, [])
    goal = "ttft_p95<1"
    held = SweepResult("server", goal, Bracket(4.0, 5.0), [met], met)
    assert held.description == "server: ttft_p95<1 is met up to 4 requests/s, sustained for 100 s, and missed at 5"
    skipped = SweepResult("server", goal, Bracket(4.0, 5.0), [met], None, was_confirmed=False)
    assert "not known to be sustained" in skipped.description
    assert "ended before a rate was judged" in SweepResult("server", goal, Bracket(0.0, None)).description
    assert "no rate held" in SweepResult("server", goal, Bracket(0.0, 4.0), [met, *never.trials], None).description


def always(seconds: float) -> Callable[[Generator], float]:
    return lambda _: seconds


def on_average(seconds: float) -> Callable[[Generator], float]:
    return lambda rng: float(rng.exponential(seconds))


async def swept(
    queue: SimulatedQueue, goal: str = "errors<0.01", *, seconds: float = 60, precision: float = 0.05
) -> float:
    """The sweep's answer with rates of 60 to 900 seconds, confirmed for 300."""
    trials = SimulatedTrials(queue, parse_goal(goal), min_seconds=seconds, max_seconds=15 * seconds)
    search = trials.search(precision)
    bracket = await search.highest_rate(float(default_rng(queue.seed).uniform(0.3, 1.7)))
    bracket, sustained = await search.confirm(bracket, 5 * seconds)
    assert sustained is not None
    return bracket.met


@pytest.mark.parametrize(("slots", "seconds", "seed"), [(1, 0.2, 0), (8, 1.6, 1)])
async def test_the_answer_is_within_a_tenth_of_the_capacity_and_never_above(
    slots: int, seconds: float, seed: int
) -> None:
    """T6: a sweep said 8 requests/s of a server that answered 4.6/s while 23 waited."""
    capacity = slots / seconds
    assert 0.9 * capacity <= await swept(SimulatedQueue(slots, always(seconds), seed)) <= capacity


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "seconds"), [(1, 0.2), (8, 1.6)])
async def test_no_answer_of_many_sweeps_is_above_the_capacity(slots: int, seconds: float) -> None:
    """T6"""
    capacity = slots / seconds
    found = [await swept(SimulatedQueue(slots, always(seconds), seed)) / capacity for seed in range(20)]
    assert 0.9 <= min(found) <= max(found) <= 1


@pytest.mark.slow
async def test_answers_of_a_server_with_random_times_are_near_its_capacity() -> None:
    """T6: by chance such a server is faster or slower than its capacity for minutes."""
    found = sorted([await swept(SimulatedQueue(8, on_average(1.6), seed)) / 5.0 for seed in range(12)])
    assert 0.85 <= found[0] <= found[6] <= 1 <= found[-1] + 0.1
    assert found[-1] < 1.05


async def test_a_goal_for_latency_limits_the_rate_below_the_capacity() -> None:
    rate = await swept(SimulatedQueue(1, on_average(0.2), 3), "latency_scheduled_p50<0.35", precision=0.1)
    truth = 5 - 0.6931 / 0.35  # M/M/1: the time in the system is exponential, with the rate capacity - arrivals
    assert truth * 0.8 <= rate <= truth * 1.15
