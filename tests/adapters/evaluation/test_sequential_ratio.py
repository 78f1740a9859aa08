import math

import numpy as np
import pytest

from loramux_adapters.evaluation.sequential_ratio import MIN_UNITS, ratio_interval


def test_there_is_no_interval_from_few_units_or_from_zeros() -> None:
    """T5: no interval below a smallest number of units."""
    some = [1.0] * MIN_UNITS
    assert ratio_interval(some[1:], some) is None
    assert ratio_interval(some, [0.0] * MIN_UNITS) is None
    assert ratio_interval(some, [0.1 + 0.2] * MIN_UNITS) is None  # an interval of zero width


def test_a_ratio_is_that_of_the_means() -> None:
    rng = np.random.default_rng(0)
    interval = ratio_interval(rng.lognormal(1, 0.5, 400).tolist(), rng.lognormal(0, 0.5, 300).tolist())
    assert interval is not None
    assert interval.low < math.e < interval.high
    assert interval.high / interval.low < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_equal_latencies_are_told_apart_in_at_most_5_percent_of_experiments_with_many_peeks(spread: float) -> None:
    rng, alarms, experiments = np.random.default_rng(0), 0, 300
    for _ in range(experiments):
        a, b = rng.lognormal(0, spread, (2, 400))
        intervals = (ratio_interval(a[:n], b[:n]) for n in range(MIN_UNITS, 400, 10))
        alarms += any(not i.low <= 1 <= i.high for i in intervals if i)
    assert alarms <= experiments * 0.05 + 3 * math.sqrt(experiments * 0.05 * 0.95)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_values_that_no_latency_can_have_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ratio_interval([bad], [1.0])
