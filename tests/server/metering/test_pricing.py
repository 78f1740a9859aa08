"""Costs of tokens by the price list."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from loramux_adapters.evaluation.token_prices import AdapterPrices, TokenPrices
from loramux_server.metering.pricing import Prices

BASE = TokenPrices(input=Decimal("0.15"), cached=Decimal("0.075"), output=Decimal("0.60"))
PRICES = Prices(
    base=BASE,
    adapter=AdapterPrices(multiplier=Decimal(2)),
    adapters={"own": AdapterPrices(tokens=TokenPrices(input=Decimal(1)), training=Decimal(12))},
)


def test_tokens_cost_what_the_list_says_to_the_nanodollar() -> None:
    assert (
        PRICES.token_cost(None, input_tokens=1000, cached_tokens=400, output_tokens=100)
        == 600 * 150 + 400 * 75 + 100 * 600
    )


def test_an_adapter_has_the_base_s_prices_times_its_multiplier_or_its_own() -> None:
    assert PRICES.token_cost("any", 1000, 0, 0) == 300_000
    assert PRICES.token_cost("own", 1000, 1000, 7) == 1_000_000


def test_cached_tokens_cost_as_much_as_input_by_default() -> None:
    assert Prices(base=TokenPrices(input=Decimal(1))).token_cost(None, 10, 10, 0) == 10_000


def test_fractions_of_a_nanodollar_are_rounded_once_per_request() -> None:
    prices = Prices(base=TokenPrices(input=Decimal("0.0375")))
    assert prices.token_cost(None, 2, 0, 0) == 75
    assert prices.token_cost(None, 3, 0, 0) == 112


def test_everything_is_free_by_default() -> None:
    assert Prices().token_cost("any", 10**9, 0, 10**9) == 0
    assert Prices().nanodollars_per_hour == 0
    assert Prices().stated_training_cost("any") is None


def test_all_gpus_cost() -> None:
    assert Prices(gpu_hour=Decimal("2.5"), gpus=4).nanodollars_per_hour == 10_000_000_000


def test_the_version_is_a_hash_of_the_prices() -> None:
    assert Prices().version == Prices().version
    assert Prices().version != PRICES.version
    assert len(PRICES.version) == 12


@pytest.mark.parametrize("value", [-1, "nan", "inf", "free", 10**9])
def test_an_invalid_price_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate({"base": {"input": value}})


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate({"decode_weight": 0})
