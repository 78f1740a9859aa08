"""The full simulation is in tests/loadtests/benchmarks/coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.intervals import difference_interval, mean_interval, unbounded_mean_interval

scores = st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 1), min_size=1, max_size=40)


@given(scores)
def test_an_interval_of_scores_has_a_width_contains_its_estimate_and_stays_within_0_and_1(values: list[float]) -> None:
    low, estimate, high = mean_interval(values)
    assert 0 <= low <= estimate <= high <= 1
    assert high - low > 0.5 / len(values) ** 1.5


@given(scores, st.randoms())
def test_swapping_two_arms_mirrors_the_interval_of_their_difference(ours: list[float], random: object) -> None:
    theirs = [random.choice([0.0, 0.5, value]) for value in ours]  # type: ignore[attr-defined]
    low, estimate, high = difference_interval(ours, theirs)
    assert difference_interval(theirs, ours) == pytest.approx((-high, -estimate, -low))
    assert -1 <= low <= estimate <= high <= 1
    assert high - low > 0.5 / len(ours) ** 1.5


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_scores_leave_a_doubt_that_shrinks_with_their_number(value: float) -> None:
    """T3: `+0.00 [+0.00, +0.00]` at 0 of 10."""
    few, many = (difference_interval([value] * n, [value] * n) for n in (10, 400))
    assert few.low == pytest.approx(-few.high)
    assert 0.2 < few.high < 0.35  # "rule of three": 3/10
    assert 0.005 < many.high < 0.01


def test_paired_shares_have_the_interval_of_bonett_and_price_with_a_quantile_of_t() -> None:
    # n = 50; 12 items only ours, 5 only theirs: (12 + 1) / 52 - (5 + 1) / 52
    ours, theirs = [1.0] * 12 + [0.0] * 38, [0.0] * 45 + [1.0] * 5
    low, estimate, high = difference_interval(ours, theirs)
    p12, p21 = 13 / 52, 6 / 52
    half = 2.0076 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / 51)
    assert (low, estimate, high) == pytest.approx((p12 - p21 - half, 0.14, p12 - p21 + half), abs=1e-4)


def test_a_higher_confidence_has_a_wider_interval() -> None:
    ours, theirs = [1.0, 0.0, 1.0] * 10, [0.0, 0.0, 1.0] * 10
    narrow, wide = (difference_interval(ours, theirs, confidence=confidence) for confidence in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_scores_beyond_0_and_1_have_their_own_range() -> None:
    low, estimate, high = mean_interval([1.0, 5.0, 3.0] * 10)
    assert 2 < low < estimate < high < 4


def test_quantities_without_bounds_have_no_interval_below_ten() -> None:
    """T5: intervals from one request."""
    assert unbounded_mean_interval([0.3]) is None
    assert unbounded_mean_interval([0.3] * 9) is None
    low, estimate, high = unbounded_mean_interval([0.2, 0.4] * 5) or (0, 0, 0)
    assert (low, estimate, high) == pytest.approx((0.2246, 0.3, 0.3754), abs=1e-3)


@pytest.mark.parametrize("wrong", [[], [math.nan], [0.5, math.inf]])
def test_scores_that_are_missing_or_not_finite_are_refused(wrong: list[float]) -> None:
    for interval in (mean_interval, unbounded_mean_interval, lambda values: difference_interval(values, values)):
        with pytest.raises(ValueError, match=r"no measurements|not a finite number"):
            interval(wrong)


def test_scores_that_are_not_in_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        difference_interval([1.0], [1.0, 0.0])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.97, 1.0])
def test_intervals_of_shares_contain_the_truth_in_at_least_93_percent(share: float) -> None:
    for count in (10, 40):
        hits = np.arange(count + 1)
        ends = [mean_interval([1.0] * k + [0.0] * (count - k)) for k in hits]
        weights = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in hits]
        held = sum(weight for weight, (low, _, high) in zip(weights, ends, strict=True) if low <= share <= high)
        assert held >= 0.93


def test_an_interval_narrows_with_the_root_of_the_items_and_holds_the_truth() -> None:
    samples = np.random.default_rng(1).beta(2, 2, size=400).tolist()
    few, many = mean_interval(samples[:25]), mean_interval(samples)
    assert many.low < 0.5 < many.high
    assert many.high - many.low == pytest.approx(4 * 0.2236 / 20, rel=0.1)  # about four standard errors
    assert 4 * (many.high - many.low) < few.high - few.low < 6 * (many.high - many.low)
