import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_loadtests.loadtest.sweep import MAX_RATE, MIN_RATE, find_highest_rate


async def searched(truth: float, begin: float, precision: float = 0.1) -> tuple[list[float], float, float | None]:
    tried: list[float] = []

    async def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= truth

    found = await find_highest_rate(meets, begin, precision)
    return tried, found.met, found.missed


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
