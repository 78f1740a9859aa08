"""The simulations peek after every unit: fixed-sample intervals fail them by a wide margin."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.evaluation import sequential
from loramux_adapters.evaluation.sequential import (
    ScoreCounts,
    difference_interval,
    difference_of_pairs,
    mean_interval,
    paired_counts,
)

UPPER, LOWER = (
    np.concatenate([np.arange(max(shift, 0), sequential.CELLS + min(shift, 0)) for shift in shifts])
    for shifts in ((0, 1, -1), (0, -1, 1))
)
"""Pairs of cells whose means may be equal."""
Draw = Callable[[np.random.Generator, int], float]


class Simulation:
    """Units that are assigned at random, one by one, and the interval after each."""

    def __init__(self, share: float) -> None:
        self.scores: tuple[list[float], list[float]] = ([], [])
        self.share = share

    def add(self, rng: np.random.Generator, draw: tuple[Draw, Draw], now: int) -> None:
        variant = int(rng.random() < self.share)
        self.scores[variant].append(draw[variant](rng, now))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0: only if no pair of about equal means is left, which is quicker to check."""
        reference, challenger = map(ScoreCounts.of, self.scores)
        capital = sequential._capital_against_means
        alone = (capital(challenger)[UPPER] + capital(reference)[LOWER]) + math.log(1 - sequential._ON_DIFFERENCE)
        opposite = sequential._capital_against_differences(challenger, reference, self.share, UPPER, LOWER)
        opposite += math.log(sequential._ON_DIFFERENCE)
        if (np.logaddexp(alone, opposite) < -math.log(0.05)).any():
            return False
        low, _, high = difference_interval(challenger, reference, challenger_share=self.share)
        return low > 0 or high < 0


def units_until_zero_is_excluded(
    seed: int, draw: tuple[Draw, Draw], units: int, share: float = 0.5, first: int = 0, every: int = 1
) -> int | None:
    """Peek after each unit; return how many there were when 0 was first excluded."""
    rng, simulation = np.random.default_rng(seed), Simulation(share)
    for now in range(units):
        simulation.add(rng, draw, now)
        if now >= first and now % every == 0 and simulation.excludes_zero:
            return now + 1
    return None


def bernoulli(p: float) -> Draw:
    return lambda rng, _now: float(rng.random() < p)


def graded(*grades: float) -> Draw:
    return lambda rng, _now: float(rng.choice(grades))


def drifting(rng: np.random.Generator, now: int) -> float:
    return float(rng.random() < (0.2 if now < 100 else 0.8))


def most_false_alarms(experiments: int) -> float:
    """5 % of the experiments, and three standard errors of the simulation."""
    return experiments * 0.05 + 3 * math.sqrt(experiments * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("draw", "share"),
    [
        (bernoulli(0.5), 0.5),
        (bernoulli(0.95), 0.5),
        (bernoulli(0.5), 0.05),
        (graded(0, 0.25, 0.5, 1), 0.2),
        (drifting, 0.5),
    ],
    ids=["half", "nearly all", "a share of 5 %", "graded", "drifting"],
)
@pytest.mark.slow
def test_equal_variants_are_told_apart_in_at_most_5_percent_of_experiments_with_a_peek_after_each_unit(
    draw: Draw, share: float
) -> None:
    experiments = 300
    alarms = sum(
        units_until_zero_is_excluded(seed, (draw, draw), 100, share) is not None for seed in range(experiments)
    )
    assert alarms <= most_false_alarms(experiments)


def test_equal_variants_are_rarely_told_apart_by_peeking() -> None:
    draw = bernoulli(0.6)
    alarms = sum(units_until_zero_is_excluded(seed, (draw, draw), 40, first=20) is not None for seed in range(30))
    assert alarms <= most_false_alarms(30)


@pytest.mark.slow
def test_half_of_the_experiments_decide_0_6_against_0_5_within_1400_units_and_nine_of_ten_within_2800() -> None:
    draws = bernoulli(0.5), bernoulli(0.6)
    needed = [units_until_zero_is_excluded(seed, draws, 2800, first=300, every=40) or math.inf for seed in range(60)]
    assert np.quantile(needed, 0.5) <= 1400
    assert np.quantile(needed, 0.9) <= 2800


def test_a_large_difference_is_decided_within_100_units() -> None:
    needed = [units_until_zero_is_excluded(seed, (bernoulli(0.2), bernoulli(0.8)), 100, first=40) for seed in range(5)]
    assert None not in needed


@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 1.0])
def test_the_interval_of_a_mean_ever_excludes_the_truth_in_at_most_5_percent(p: float) -> None:
    rng, misses, experiments = np.random.default_rng(0), 0, 80
    for _ in range(experiments):
        scores = (rng.random(80) < p).astype(float)
        intervals = (mean_interval(ScoreCounts.of(scores[:n])) for n in range(8, 80, 8))
        misses += any(not low <= p <= high for low, _, high in intervals)
    assert misses <= most_false_alarms(experiments)


def test_pairs_of_the_same_request_decide_sooner_than_two_samples() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(300)
    reference, challenger = (easy < 0.5).astype(float), (easy < 0.6).astype(float)
    paired = difference_of_pairs(paired_counts(challenger.tolist(), reference.tolist()))
    unpaired = difference_interval(ScoreCounts.of(challenger), ScoreCounts.of(reference))
    assert paired.low > 0 > unpaired.low
    assert paired.estimate == pytest.approx(unpaired.estimate)


def test_without_scores_nothing_is_known() -> None:
    nothing = ScoreCounts.of([])
    assert mean_interval(nothing) == (0, 0.5, 1)
    assert difference_interval(nothing, nothing)[::2] == (-1, 1)
    assert difference_of_pairs(nothing)[::2] == (-1, 1)


def test_equal_scores_of_all_units_leave_an_interval_that_is_not_zero_wide() -> None:
    """T3: a difference of 0 between 0 of 10 and 0 of 10 is not known exactly."""
    none = ScoreCounts.of([0.0] * 10)
    low, estimate, high = difference_interval(none, none)
    assert (low < -0.3, estimate, high > 0.3) == (True, 0, True)


scores = st.lists(st.floats(0, 1), max_size=60)


@given(scores, scores, st.floats(0.01, 0.99))
@settings(max_examples=8)
def test_the_estimate_is_inside_and_swapping_the_variants_mirrors_the_interval(
    ours: list[float], theirs: list[float], share: float
) -> None:
    a, b = ScoreCounts.of(ours), ScoreCounts.of(theirs)
    low, estimate, high = difference_interval(a, b, challenger_share=share)
    assert -1 <= low <= estimate <= high <= 1
    mirrored = difference_interval(b, a, challenger_share=1 - share)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((low, high))


@given(scores)
def test_the_order_of_the_units_does_not_matter(values: list[float]) -> None:
    a, b = ScoreCounts.of(values), ScoreCounts.of(reversed(values))
    assert mean_interval(a)[::2] == mean_interval(b)[::2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.01, 1.01])
def test_scores_outside_0_to_1_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        ScoreCounts.of([0.5, bad])
    with pytest.raises(ValueError, match="0 to 1"):
        paired_counts([0.0], [bad])


def test_pairs_need_two_scores() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_counts([0.5], [])


def test_counts_that_are_scaled_for_planning_keep_their_mean() -> None:
    counts = ScoreCounts.of([0.1, 0.7, 1.0])
    assert counts.scaled(100).mean == pytest.approx(counts.mean)
    assert counts.scaled(100).units == 300
