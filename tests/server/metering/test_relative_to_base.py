"""Ratios of a route's figures to the base's, with their intervals."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from loramux_server.metering.ledger.distributions import Distributions
from loramux_server.metering.ledger.reader import UsageTotals
from loramux_server.metering.relative_to_base import COMPARED_FIGURES, BaseComparison, RatioInterval


def usage(**measures: list[float]) -> UsageTotals:
    packed = Distributions.of(dict(measures)).pack()
    return UsageTotals(Counter(ok=len(next(iter(measures.values()), []))), Counter(), [packed])


def ratios(mine: UsageTotals, base: UsageTotals) -> Iterator[tuple[str, RatioInterval]]:
    return BaseComparison(base).ratios(mine)


def drawn(size: int, middle: float, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).lognormal(np.log(middle), 0.5, size))


def test_a_ratio_of_medians_and_of_means_has_its_interval_around_it() -> None:
    rng = np.random.default_rng(7)
    base = usage(first_token=list(rng.normal(1.0, 0.4, 400)), input_tokens=[1000.0] * 400)
    short = usage(first_token=list(rng.normal(0.5, 0.2, 400)), input_tokens=[20.0] * 400)
    found = dict(ratios(short, base))
    assert set(found) == {"first_token_p50", "input_tokens_mean"}
    first = found["first_token_p50"]
    assert first.low <= first.ratio <= first.high
    assert first.ratio == pytest.approx(0.5, rel=0.15)
    assert 0.02 < first.high - first.low < 0.2
    assert found["input_tokens_mean"].ratio == pytest.approx(0.02, rel=0.02)


def test_fewer_measurements_make_a_wider_interval() -> None:
    def width(count: int) -> float:
        values = [0.5, 1.0, 2.0, 4.0] * count
        (found,) = (ratio for _, ratio in ratios(usage(duration=values), usage(duration=values)))
        return found.high - found.low

    assert width(2) > 2 * width(200)


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    values = list(np.random.default_rng(3).exponential(1.0, 500))
    base = usage(gpu_hour_cost=[100.0] * 500)
    found = dict(ratios(usage(gpu_hour_cost=[100 * value for value in values]), base))["gpu_hour_cost_mean"]
    half = 1.96 * np.std(values) / np.sqrt(500)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_what_was_not_measured_or_cost_nothing_is_not_compared() -> None:
    assert dict(ratios(usage(queue=[1.0]), usage(queue=[1.0]))) == {}
    assert dict(ratios(usage(gpu_hour_cost=[5.0]), usage(gpu_hour_cost=[0.0]))) == {}
    assert dict(ratios(usage(duration=[1.0]), usage(duration=[]))) == {}


def test_a_base_that_may_cost_nothing_is_not_divided_by() -> None:
    assert dict(ratios(usage(gpu_hour_cost=[5.0] * 3), usage(gpu_hour_cost=[0.0] * 9 + [1.0]))) == {}


@pytest.mark.parametrize("size", [5, 60, 190, 210, 3000])
@pytest.mark.parametrize(
    ("measure", "name"), [("first_token", "first_token_p50"), ("input_tokens", "input_tokens_mean")]
)
def test_an_interval_is_that_of_samples_drawn_one_by_one(size: int, measure: str, name: str) -> None:
    mine, theirs = drawn(size, 1.0, 1), drawn(size, 2.0, 2)
    statistic = np.median if name.endswith("p50") else np.mean
    rng = np.random.default_rng(3)
    above, below = (statistic(rng.choice(side, (4000, size)), axis=1) for side in (mine, theirs))
    low, high = np.quantile(above / below, [0.025, 0.975])
    found = dict(ratios(usage(**{measure: mine}), usage(**{measure: theirs})))[name]
    # An interval of 400 samples is itself only known so well, and values to 1 %.
    slack = 0.25 * (high - low) + 0.03 * high
    assert [found.low, found.high] == pytest.approx([low, high], abs=slack)
    assert found.low <= found.ratio <= found.high


def test_what_always_is_the_same_has_no_interval() -> None:
    found = dict(ratios(usage(duration=[1.0] * 300), usage(duration=[2.0] * 10)))["duration_p50"]
    assert found.low == found.high == found.ratio == pytest.approx(0.5, rel=0.02)


def test_many_routes_are_compared_with_one_base() -> None:
    base = BaseComparison(usage(**{measure: drawn(50, 2.0, 1) for measure, _ in COMPARED_FIGURES.values()}))
    routes = [usage(**{measure: drawn(50, 1.0, seed) for measure, _ in COMPARED_FIGURES.values()}) for seed in range(3)]
    assert [dict(base.ratios(route)).keys() for route in routes] == [COMPARED_FIGURES.keys()] * 3
