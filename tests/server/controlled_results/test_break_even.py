"""A break-even exists only where a controlled result, prices and fixed cost say so."""

from decimal import Decimal
from typing import Any

import pytest

from loramux_adapters.evaluation.token_moments import TokenCounts, TokenMoments
from loramux_server.controlled_results.break_even import ControlledBreakEven, break_even
from loramux_server.controlled_results.models import ControlledResult, ResultKind
from loramux_server.metering.pricing import Prices

PRICES = Prices.model_validate({"base": {"input": 1, "output": 2}})
TRAINING = Decimal(3 * 10**9)


def moments(requests: int = 100, ours: int = 40, theirs: int = 700, cached: int | None = 0) -> TokenMoments | None:
    """Every other request is 10 tokens longer in the baseline."""
    return TokenMoments.of(
        [TokenCounts(ours, cached, 4)] * requests,
        [TokenCounts(theirs + 10 * (number % 2), cached, 4) for number in range(requests)],
    )


def result(**changes: Any) -> ControlledResult:
    fields: dict[str, Any] = {
        "adapter": "tone", "version": "tone@3f9c2ab01d44", "kind": ResultKind.JOB, "id": "ftjob-1", "measured_at": 1.0,
        "verdict": "better", "sentence": "It is better.", "items": 100, "baseline": "base with 9 examples",
        "is_worth_it": True, "tokens": moments(), "command": "loramux finetune show ftjob-1",
    }  # fmt: skip
    return ControlledResult(**fields | changes)


def test_a_saving_that_is_shown_pays_after_a_number_of_requests_with_its_interval() -> None:
    found = break_even(result(), PRICES, TRAINING)
    assert found.saving is not None
    assert found.saving.estimate == pytest.approx(665e-6)  # (705 - 40) tokens at a dollar per million
    assert found.fixed_cost == 3
    assert found.requests is not None
    low, estimate, high = found.requests
    assert low < estimate < high
    assert estimate == pytest.approx(3 / 665e-6, abs=1)
    assert found.sentence == f"pays after {estimate:,} [{low:,}, {high:,}] requests"


def test_the_adapters_own_prices_are_those_of_its_arm() -> None:
    prices = Prices.model_validate({"base": {"input": 1, "output": 2}, "adapters": {"tone": {"multiplier": 50}}})
    found = break_even(result(), prices, TRAINING)
    assert found.sentence == "never: a request costs more than one to the base with 9 examples"
    assert found.requests is None


@pytest.mark.parametrize(
    ("changes", "prices", "fixed_cost", "sentence"),
    [
        ({}, Prices(), TRAINING, "unknown: no prices set"),
        ({}, Prices.model_validate({"gpu_hour": 2}), TRAINING, "unknown: no prices set"),
        ({}, PRICES, None, "unknown: the training has no price"),
        ({"is_baseline_base": False}, PRICES, TRAINING, "not shown: the baseline is another version, not the base"),
        ({"tokens": None}, PRICES, TRAINING, "unknown: the tokens of fewer than 10 compared requests are known"),
        ({"tokens": moments(9)}, PRICES, TRAINING, "unknown: the tokens of fewer than 10 compared requests are known"),
        ({"is_worth_it": False, "verdict": "worse"}, PRICES, TRAINING, "not shown: the verdict is “worse”"),
        ({"tokens": moments(theirs=35)}, PRICES, TRAINING, "not shown: the interval of the saving contains 0"),
    ],
)
def test_t5_no_break_even_without_prices_enough_requests_or_a_shown_saving(
    changes: dict[str, Any], prices: Prices, fixed_cost: Decimal | None, sentence: str
) -> None:
    """T5: never "pays after 0", and never "never" where no prices are set."""
    found = break_even(result(**changes), prices, fixed_cost)
    assert (found.sentence, found.requests) == (sentence, None)


def test_t5_a_fixed_cost_of_nothing_is_not_paid_after_0_requests() -> None:
    """T5: a cost of nothing gives no number of requests."""
    found = break_even(result(), PRICES, Decimal(0))
    assert found == ControlledBreakEven(
        "every request costs less than one to the base with 9 examples", found.saving, 0.0, None
    )


def test_cached_tokens_that_nobody_counted_matter_only_if_they_have_a_price_of_their_own() -> None:
    uncounted = result(tokens=moments(cached=None))
    assert break_even(uncounted, PRICES, TRAINING).requests is not None
    dearer = Prices.model_validate({"base": {"input": 1, "cached": 0.5, "output": 2}})
    assert break_even(uncounted, dearer, TRAINING).sentence.startswith("unknown: the result does not count cached")
