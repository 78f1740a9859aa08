import numpy as np
import pytest

from loramux_adapters.evaluation.statistics import (
    paired_ratio,
    quantile,
    quantile_interval,
    ratio_of_means,
    spread,
    t_quantile,
)


def test_a_quantile_lies_linearly_between_its_neighbours() -> None:
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert quantile([10.0, 20.0], 0.9) == pytest.approx(19.0)


def test_a_spread_is_median_minimum_and_maximum() -> None:
    assert spread([3.0, 1.0, 8.0]) == (3.0, 1.0, 8.0)


def test_a_ratio_is_taken_pair_by_pair_so_that_what_slows_both_cancels() -> None:
    assert paired_ratio([2.0, 20.0, 3.3], [1.0, 10.0, 3.0]) == pytest.approx((2.0, 1.1, 2.0))


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_no_samples_or_samples_that_are_no_numbers_are_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no measurements|not a finite number"):
        spread(samples)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([1.0], [-1.0])])
def test_pairs_that_make_no_ratio_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired|positive"):
        paired_ratio(ours, theirs)


def test_the_interval_of_a_quantile_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for q, count in ((0.5, 30), (0.95, 200)):
        true = -np.log(1 - q)
        intervals = [quantile_interval(rng.exponential(size=count).tolist(), q) for _ in range(1000)]
        held = sum(low <= true <= high for low, _, high in intervals) / 1000
        assert 0.94 <= held <= 0.99
        assert all(low <= estimate <= high for low, estimate, high in intervals)


def test_an_end_of_a_quantiles_interval_is_open_with_too_few_values() -> None:
    low, estimate, high = quantile_interval([1.0, 2.0, 3.0], 0.5)
    assert (low, estimate, high) == (-np.inf, 2.0, np.inf)
    low, _, high = quantile_interval([float(n) for n in range(50)], 0.99)
    assert np.isfinite(low)
    assert high == np.inf


def test_the_interval_of_a_quantile_is_the_textbooks() -> None:
    # Of 10 values, the second and the ninth hold the median with 97.9 %.
    assert quantile_interval([float(n) for n in range(1, 11)], 0.5) == (2.0, 5.5, 9.0)


def test_many_values_have_a_narrow_interval() -> None:
    low, estimate, high = quantile_interval(np.random.default_rng(0).random(200_000).tolist(), 0.99)
    assert 0.989 < low < estimate < high < 0.991


def test_a_ratio_of_means_has_an_interval_of_pairs() -> None:
    assert ratio_of_means([1.0, 2.0, 4.0] * 4, [2.0, 4.0, 8.0] * 4) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio_of_means([1.0] * 10, [0.0] * 10) is None
    assert ratio_of_means([0.0] * 10, [1.0] * 10) is None


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shared = rng.lognormal(0, 0.6, (1000, 30))
    ours, theirs = (shared * rng.lognormal(0, 0.3, shared.shape) for _ in range(2))
    intervals = [ratio_of_means(2 * one, other) for one, other in zip(ours, theirs, strict=True)]
    held = sum(interval is not None and interval.low <= 2 <= interval.high for interval in intervals) / 1000
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(
    ("probability", "degrees", "exact"),  # scipy.stats.t.ppf
    [(0.975, 9, 2.26216), (0.95, 11, 1.79588), (0.995, 20, 2.84534), (0.9975, 400, 2.82295), (0.025, 30, -2.04227)],
)
def test_the_quantile_of_t_is_the_tables(probability: float, degrees: int, exact: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(exact, rel=1e-3)


def test_a_ratio_of_a_few_measurements_has_no_interval() -> None:
    """T5: `1.15 [1.15, 1.15]` was said after one request each."""
    assert ratio_of_means([1.15], [1.0]) is None
    assert ratio_of_means([1.0] * 9, [2.0] * 9) is None
