"""Moments of paired token counts, and the saving that they give at any prices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loramux_adapters.evaluation.token_moments import TokenCosts, TokenCounts, TokenMoments

OURS, THEIRS = TokenCosts(150, 75, 600), TokenCosts(300, 30, 900)
COUNTS = st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 500)).map(
    lambda counts: TokenCounts(counts[0] + counts[1], counts[1], counts[2])
)


def cost(counts: TokenCounts, costs: TokenCosts) -> float:
    cached = counts.cached or 0
    return (counts.input - cached) * costs.input + cached * costs.cached + counts.output * costs.output


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=30))
def test_the_saving_is_the_mean_of_the_paired_differences_with_their_t_interval(
    pairs: list[tuple[TokenCounts, TokenCounts]],
) -> None:
    moments = TokenMoments.of([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    assert moments is not None
    differences = [cost(theirs, THEIRS) - cost(ours, OURS) for ours, theirs in pairs]
    saving = moments.saving(OURS, THEIRS)
    scale = 1 + abs(np.array(differences)).max()
    assert saving.estimate == pytest.approx(np.mean(differences), abs=1e-9 * scale)
    error = np.std(differences, ddof=1) / np.sqrt(len(pairs))
    half = (saving.high - saving.low) / 2
    assert 1.95 * error - 1e-6 * scale <= half <= 12.8 * error + 1e-6 * scale
    assert TokenMoments.model_validate_json(moments.model_dump_json()) == moments


@pytest.mark.parametrize("requests", [10, 30, 100])
def test_the_interval_contains_the_true_saving_in_95_percent_of_experiments(requests: int) -> None:
    rng, hits, experiments = np.random.default_rng(requests), 0, 400
    for _ in range(experiments):
        ours = [TokenCounts(40, 0, int(tokens)) for tokens in rng.poisson(20, requests)]
        theirs = [TokenCounts(700, int(cached), int(out)) for cached, out in rng.poisson((600, 25), (requests, 2))]
        moments = TokenMoments.of(ours, theirs)
        assert moments is not None
        truth = cost(TokenCounts(700, 600, 25), THEIRS) - cost(TokenCounts(40, 0, 20), OURS)
        saving = moments.saving(OURS, THEIRS)
        hits += saving.low <= truth <= saving.high
    assert 0.925 <= hits / experiments <= 0.98


def test_it_is_known_whether_cached_tokens_were_counted() -> None:
    counted, uncounted = TokenCounts(10, 5, 1), TokenCounts(10, None, 1)
    for other, known in ((counted, True), (uncounted, False)):
        moments = TokenMoments.of([counted] * 3, [other] * 3)
        assert moments is not None
        assert moments.has_cached is known


def test_a_single_pair_has_no_moments_and_unequal_numbers_are_refused() -> None:
    assert TokenMoments.of([TokenCounts(1, 0, 1)], [TokenCounts(1, 0, 1)]) is None
    with pytest.raises(ValueError, match="paired"):
        TokenMoments.of([TokenCounts(1, 0, 1)] * 3, [TokenCounts(1, 0, 1)] * 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"means": [1.0] * 5},
        {"means": [float("nan")] * 6},
        {"covariance": [[0.0] * 6] * 5},
        {"covariance": [[0.0] * 5] * 6},
        {"covariance": [[float("inf")] * 6] * 6},
        {"requests": 1},
    ],
)
def test_stored_moments_of_another_shape_or_without_finite_values_are_refused(changes: dict[str, object]) -> None:
    stored = {"requests": 9, "means": [1.0] * 6, "covariance": [[0.0] * 6] * 6, "has_cached": True}
    TokenMoments.model_validate(stored)
    with pytest.raises(ValidationError):
        TokenMoments.model_validate(stored | changes)
